"""Overflow against operand bits (the paper's figure 5), from `operand_bits.csv` in the folders of runs.

The file is written by `scripts/operand_bits.py`; what is counted is defined in `integer.operand_bits`.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from oaq_repro.errors import InputError
from oaq_repro.results.plotting import LINES, Plot, legend, mark, new_figure, style

FILE_NAME = "operand_bits.csv"
HEADS = ("bits", "layer", "events", "outputs", "images_affected", "images")
TOGETHER = "together"  # as integer.operand_bits writes it


@dataclass(frozen=True)
class Line:
    """A network's counts over its layers together, by operand bits."""

    name: str
    run: str
    counts: dict[int, tuple[int, int, int, int]]  # events, outputs, images affected, images


def read_line(path: Path, name: str, run: str) -> Line:
    """Read what `scripts/operand_bits.py` wrote; InputError where it is something else."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["layer"] == TOGETHER]
        counts = {int(r["bits"]): (*(int(r[head]) for head in HEADS[2:]),) for r in rows}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}), expected columns {', '.join(HEADS)}") from error
    if not counts or not all(outputs > 0 and images > 0 for _, outputs, _, images in counts.values()):
        raise InputError(f"{path}: found no counts of {TOGETHER!r}, expected a row per number of bits")
    return Line(name, run, dict(sorted(counts.items())))  # type: ignore[arg-type]


def operand_figure(lines: Sequence[Line]) -> Plot:
    """Share of outputs (log axis, zero apart) and of images with a sum outside 16 bits, a line per network."""
    figure = new_figure(3.5 + 0.2 * ((len(lines) + 1) // 2))
    left, right = figure.subplots(1, 2)
    ratios = [{bits: found[0] / found[1] for bits, found in line.counts.items()} for line in lines]
    seen = [ratio for by_bits in ratios for ratio in by_bits.values() if ratio]
    lowest = math.floor(math.log10(min(seen))) if seen else -6
    handles = []
    for number, (line, by_bits) in enumerate(zip(lines, ratios, strict=True)):
        drawn = {"color": "black", "linewidth": 1.1, "linestyle": LINES[number % len(LINES)], **mark(number, False)}
        places = [math.log10(ratio) if ratio else lowest - 1 for ratio in by_bits.values()]
        left.plot(list(by_bits), places, **drawn)
        right.plot(list(by_bits), [100 * a / n for _, _, a, n in line.counts.values()], **drawn)
        handles.append(Line2D([], [], label=line.name, **drawn))
    _log_axis(left, lowest)
    style(left, "operand bits", "outputs outside 16 bits")
    style(right, "operand bits", "images affected (%)")
    right.set_ylim(-4, 104)
    for axes in (left, right):
        axes.set_xticks(sorted({bits for line in lines for bits in line.counts}))
    legend(figure, handles, "Overflow of 16-bit sums, exact count on trained networks", columns=1)
    rows = [[x.name, x.run, bits, TOGETHER, *found] for x in lines for bits, found in x.counts.items()]
    return Plot("operand_bits", figure, ["network", "run", *HEADS], rows)


def _log_axis(axes: Axes, lowest: int) -> None:
    """Decades from `lowest` to 1, and zero below a dashed line."""
    powers = range(lowest, 1, 1 if lowest > -5 else 2)
    axes.set_yticks([lowest - 1, *powers], ["0", *(f"$10^{{{power}}}$" for power in powers)])
    axes.set_ylim(lowest - 1.4, 0.2)
    axes.axhline(lowest - 0.5, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
