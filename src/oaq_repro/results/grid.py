"""A table as text: Markdown, LaTeX (booktabs) and CSV from the same rows, to the byte."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DIGITS = 9  # significant digits in CSV: more than any claim needs, fewer than libraries disagree on
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "|": r"$|$",
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table of text. align: one letter per column, l or r; rows: as many cells as heads."""

    title: str
    notes: str
    heads: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]
    empty: str = "Nothing yet."

    def markdown(self) -> str:
        """Title, notes and a pipe table."""
        rule = ["---:" if letter == "r" else "---" for letter in self.align]
        lines = [f"# {self.title}", "", self.notes, "", _line(self.heads), _line(rule), *map(_line, self.rows)]
        return "\n".join(lines if self.rows else [*lines, "", self.empty]) + "\n"

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs, for `\\input`; the notes as a comment."""
        comments = [f"% {line}" for line in f"{self.title}. {self.notes}".splitlines()]
        body = [" & ".join(map(_latex, row)) + r" \\" for row in (self.heads, *self.rows)]
        lines = [*comments, rf"\begin{{tabular}}{{{self.align}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def csv_text(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV; None is an empty field, floats have DIGITS significant digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([[f"{x:.{DIGITS}g}" if isinstance(x, float) else x for x in row] for row in rows])
    return buffer.getvalue()


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _latex(cell: str) -> str:
    plain = re.sub(r"`", "", " ".join(cell.split()))
    return "".join(LATEX.get(letter, letter) for letter in plain)
