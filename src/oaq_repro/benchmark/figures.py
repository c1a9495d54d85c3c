"""Two figures per suite and number of threads, PNG and SVG: readable in black and white and on a phone."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from oaq_repro.benchmark.kernels import ROUTES, kind_of
from oaq_repro.benchmark.report import KINDS
from oaq_repro.benchmark.timing import Row
from oaq_repro.files import write_atomic

WIDTH = 5.0  # inches; small, so that type of ordinary size is large after scaling to a phone
BAR = 0.2  # inches per bar
DPI = 200
LOOKS: dict[str, dict[str, Any]] = {
    "engine": {"facecolor": "0.15", "edgecolor": "black"},
    "int8": {"facecolor": "0.8", "edgecolor": "black"},
    "fp32": {"facecolor": "white", "edgecolor": "black", "hatch": "////"},
}
WORDS = {"engine": "this engine", "int8": "int8 peer", "fp32": "float32 peer"}
LONGEST = 4.0  # times mode `fast`
BEHIND_TEXT = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
MARKS = ("o", "s", "^", "D", "v", "P")


def write_figures(folder: Path, suite: str, rows: Sequence[Row]) -> list[Path]:
    """`models-1.png`, `models-1.svg` and so on for every number of threads with a timed row; their paths."""
    figure_of = {"models": models_figure, "kernels": kernels_figure}[suite]
    written = []
    timed = [row for row in rows if row.median_ms is not None]
    for threads in sorted({row.threads for row in timed}):
        figure = figure_of([row for row in timed if row.threads == threads], threads)
        for suffix in ("png", "svg"):
            written.append(write_atomic(folder / f"{suite}-{threads}.{suffix}", partial(_save, figure)))
    return written


def models_figure(rows: Sequence[Row], threads: int) -> Figure:
    """A panel per network: time of every variant relative to mode `fast`, with the milliseconds beside.

    Bars end at LONGEST, with a mark; the number is the true one.
    """
    networks = list(dict.fromkeys(row.name for row in rows))
    groups = [[row for row in rows if row.name == name and row.ratio_to_fast is not None] for name in networks]
    heights = [max(len(group), 1) + 1.6 for group in groups]
    figure = _figure(1.0 + BAR * sum(heights))
    panels = np.atleast_1d(figure.subplots(len(networks), 1, sharex=True, height_ratios=heights))
    longest = min(max((row.ratio_to_fast or 0.0 for row in rows), default=1.0), LONGEST)
    for axes, name, group in zip(panels, networks, groups, strict=True):
        for place, row in enumerate(group):
            ratio = row.ratio_to_fast or 0.0
            shown = min(ratio, LONGEST)
            axes.barh(place, shown, height=0.75, **LOOKS[KINDS.get(row.variant, "engine")])
            words = f"{'» ' if ratio > LONGEST else ''}{ratio:.2f}x, {row.median_ms:.1f} ms"
            axes.text(shown + 0.02 * longest, place, words, va="center", fontsize=7, bbox=BEHIND_TEXT)
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(group)), [row.variant for row in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlim(0, 1.35 * longest)
        _style(axes)
    panels[-1].set_xlabel("time / time of mode fast (longer is slower)")
    patches = [Patch(label=WORDS[kind], **look) for kind, look in LOOKS.items()]
    _legend(figure, patches, f"Batch 1, {threads} thread{'s' if threads > 1 else ''}")
    return figure


def kernels_figure(rows: Sequence[Row], threads: int) -> Figure:
    """A mark per shape: products per cycle and core by route; dense kinds above, depthwise below."""
    kinds = sorted({kind_of(row.name) for row in rows})
    parts = [part for part in ([k for k in kinds if "depth" not in k], [k for k in kinds if "depth" in k]) if part]
    used = [
        [r for r in ROUTES if any(row.variant == r and kind_of(row.name) in part for row in rows)] for part in parts
    ]
    heights = [1.6 + 1.6 * len(routes) for routes in used]
    figure = _figure(1.0 + BAR * sum(heights))
    panels = np.atleast_1d(figure.subplots(len(parts), 1, height_ratios=heights))
    for axes, part, routes in zip(panels, parts, used, strict=True):
        for number, kind in enumerate(part):
            offset = 0.22 * (number - (len(part) - 1) / 2)
            points = [
                (row.mac_per_cycle, routes.index(row.variant) + offset) for row in rows if kind_of(row.name) == kind
            ]
            look = {"markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 0.6, "linestyle": "none"}
            axes.plot(*zip(*points, strict=True), marker=MARKS[number % len(MARKS)], markersize=4, label=kind, **look)
        for place, route in enumerate(routes):
            rates = [r.mac_per_cycle or 0.0 for r in rows if r.variant == route and kind_of(r.name) in part]
            axes.plot([np.median(rates)] * 2, [place - 0.42, place + 0.42], color="black", linewidth=1.8)
        axes.set_yticks(range(len(routes)), routes)
        axes.set_ylim(len(routes) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.legend(fontsize=8, frameon=False, loc="lower right", handletextpad=0.2)
        axes.set_title("depthwise" if "depth" in part[0] else "dense", fontsize=10, loc="left")
        _style(axes)
    panels[-1].set_xlabel("MAC per cycle and core (a mark per shape; bar: median)")
    _legend(figure, [], f"Kernels, {threads} thread{'s' if threads > 1 else ''}")
    return figure


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: no global state, no display
    return figure


def _legend(figure: Figure, patches: list[Patch], title: str) -> None:
    figure.legend(
        handles=patches, title=title, title_fontsize=10, alignment="left", loc="outside upper left", ncols=3,
        frameon=False, fontsize=9, handletextpad=0.5,
    )  # fmt: skip


def _style(axes: Axes) -> None:
    axes.grid(axis="x", color="0.8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.tick_params(axis="x", labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    # No date, version or random identifiers in the file: the same rows give the same bytes.
    svg = path.suffix == ".svg"
    with matplotlib.rc_context({"svg.hashsalt": "oaq_repro", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None} if svg else {"Software": None})
