"""How the figures of the results folder look and are written: in black and white, on a phone, the same bytes again.

Marks and line styles tell series apart, never colours. A mark is filled where a guarantee holds (no input can
overflow), hollow where the claim is empirical.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from oaq_repro.results import grid

WIDTH, DPI = 6.0, 200  # inches; type of 9 points and more at this width
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h", "d", "8")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
REFERENCES: tuple[Any, ...] = ((0, (8, 3)), (0, (1, 3)))


@dataclass(frozen=True)
class Plot:
    """A figure and the numbers it shows. name: file name without suffix."""

    name: str
    figure: Figure
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def files(self) -> dict[str, bytes]:
        """File name to content: PNG, SVG, and the numbers as CSV."""
        numbers = grid.csv_text(self.heads, self.rows).encode()
        svg, png = _bytes(self.figure, "svg"), _bytes(self.figure, "png")
        return {f"{self.name}.csv": numbers, f"{self.name}.svg": svg, f"{self.name}.png": png}


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; not pyplot: no global state, no display."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def mark(number: int, filled: bool, size: float = 6.5) -> dict[str, Any]:
    """Marker of the series with that number; filled: guaranteed."""
    face = "black" if filled else "none"
    marker = MARKERS[number % len(MARKERS)]
    size += 2 * (marker in "*dP8X")  # which look smaller than they are
    return {"marker": marker, "markersize": size, "markerfacecolor": face, "markeredgecolor": "black"}


def style(axes: Axes, x: str, y: str) -> None:
    """Grid, labels, no box."""
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(figure: Figure, handles: Sequence[Any], title: str, columns: int = 2, size: float = 9.5) -> None:
    """What the marks mean, above the axes and never over them."""
    figure.legend(
        handles=list(handles), title=title, title_fontsize=10, fontsize=size, alignment="left", ncols=columns,
        loc="outside upper left", frameon=False, handlelength=3.2, columnspacing=1.2,
    )  # fmt: skip


def _bytes(figure: Figure, suffix: str) -> bytes:
    # No date or random identifiers. An SVG names the version of matplotlib, on which its bytes depend.
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "oaq_repro", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=suffix, metadata=metadata)
    return buffer.getvalue()
