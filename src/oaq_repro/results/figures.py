"""Two figures per run, one row per layer: readable in black and white, on a phone, for 8 to 60 layers.

Layers run downwards and the figure grows with their number, so that text keeps its size however narrow
the screen. Filled and hollow marks, not colours, tell the two series apart.
"""

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from oaq_repro.files import write_atomic
from oaq_repro.results.labels import label, short_names
from oaq_repro.results.precision_figure import figures_of
from oaq_repro.results.record import Record

WIDTH = 5.0  # inches; small, so that type of ordinary size is large after scaling to a phone
ROW = 0.23  # inches per layer
FRAME = 1.75  # inches for title, legend and axis
DPI = 200
MOST_STEPS = 5  # between ticks of alpha
NAME = 23  # characters of a layer's name; the number behind it keeps shortened names apart

FILLED = {"marker": "o", "markersize": 5.0, "color": "black", "linestyle": "none"}
HOLLOW = {
    "marker": "s",
    "markersize": 8.0,
    "markerfacecolor": "none",
    "markeredgecolor": "0.25",
    "markeredgewidth": 1.2,
    "linestyle": "none",
}


def write_figures(record: Record, folder: Path | str) -> list[Path]:
    """Write `alpha.png`, `overflow.png`, `accuracy_cost.png` and `frames.png` into `folder`.

    Each where the record, or what the run left in the folder, has what it shows.
    """
    folder = Path(folder)
    written: list[Path] = []
    if record.layers:
        written.append(write_atomic(folder / "alpha.png", partial(_save, alpha_figure(record))))
    if record.layers and record.overflow is not None:
        written.append(write_atomic(folder / "overflow.png", partial(_save, overflow_figure(record))))
    if record.frame_precision is not None:
        for name, figure in figures_of(record, folder).items():
            written.append(write_atomic(folder / name, partial(_save, figure)))
    return written


def alpha_figure(record: Record) -> Figure:
    """Alpha (left) and effective bits (right) of each layer's input activation and weight.

    Where channels have factors of their own the weight's mark is their mean and a line their range.
    """
    layers = record.layers
    figure = _figure(record)
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(layers))
    _series(left, rows, [x.alpha_activation for x in layers], [x.alpha_weight for x in layers])
    _series(right, rows, [x.bits_activation for x in layers], [x.bits_weight for x in layers])
    for axes, field in ((left, "alpha_weight"), (right, "bits_weight")):
        ends = [(getattr(x, f"{field}_min"), getattr(x, f"{field}_max")) for x in layers]
        found = [(row, low, high) for row, (low, high) in zip(rows, ends, strict=True) if low is not None]
        if found:
            axes.hlines(*zip(*found, strict=True), color="0.25", linewidth=1.2)
    left.set_xlabel("alpha")
    right.set_xlabel("effective bits")
    top = max(max(x.alpha_activation, x.alpha_weight_max or x.alpha_weight) for x in layers)
    right_end = max(2.2, 1.05 * top)
    left.set_xlim(1 - 0.08 * (right_end - 1), right_end)
    left.xaxis.set_major_locator(FixedLocator(_alpha_ticks(top)))
    least = min(
        min(x.bits_activation, x.bits_weight if x.bits_weight_min is None else x.bits_weight_min) for x in layers
    )
    right.set_xlim(min(3.8, math.floor(least) - 0.2), 8.4)
    right.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _rows(left, [layer.name for layer in layers])
    for axes in (left, right):
        _style(axes)
    _legend(figure, left, record)
    return figure


def overflow_figure(record: Record) -> Figure:
    """Overflow events per output of each layer, settle set against held-out data, on a log axis.

    Zero has its own place left of the axis; a layer without checked outputs has no mark there.
    """
    overflow = record.overflow
    if overflow is None:
        raise ValueError("this record has no overflow counts")
    names = [layer.name for layer in record.layers]
    held_out = [_ratio(overflow.evaluation, overflow.outputs, name) for name in names]
    settle = [_ratio(overflow.settle, overflow.settle_outputs, name) for name in names]
    seen = [value for value in held_out + settle if value]
    lowest = math.floor(math.log10(min(seen))) if seen else -6
    highest = max(math.ceil(math.log10(max(seen))) if seen else 0, lowest + 2)
    zero = lowest - max(1.0, (highest - lowest) / 6)  # far enough for its tick's label

    figure = _figure(record)
    axes = figure.subplots()
    _series(
        axes,
        range(len(names)),
        [_place(value, zero) for value in held_out],
        [_place(value, zero) for value in settle],
        labels=("held-out data", "settle set"),
    )
    decades = range(lowest, highest + 1)
    step = 1 if len(decades) <= 6 else 2
    axes.set_xlim(zero - 0.4 * (lowest - zero), highest + 0.25)
    axes.set_xticks([zero, *decades[::step]], ["0", *(f"$10^{{{power}}}$" for power in decades[::step])])
    axes.axvline((zero + lowest) / 2, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_xlabel("overflow events per output")
    _rows(axes, names)
    _style(axes)
    events = [overflow.evaluation.get(name, 0) for name in names]
    if any(events):
        side = axes.secondary_yaxis("right")
        side.set_yticks(range(len(names)), [f"{n:,}" if n else "" for n in events])
        side.tick_params(length=0, labelsize=8)
        side.set_ylabel("held-out events", rotation=270, labelpad=12)
        side.spines["right"].set_visible(False)
    _legend(figure, axes, record)
    return figure


def _alpha_ticks(top: float) -> list[int]:
    step = max(1, math.ceil((top - 1) / MOST_STEPS))
    return list(range(1, math.ceil(top) + step, step))


def _ratio(events: dict[str, int], outputs: dict[str, int], name: str) -> float | None:
    return events.get(name, 0) / outputs[name] if outputs.get(name) else None


def _place(ratio: float | None, zero: float) -> float:
    if ratio is None:
        return math.nan
    return math.log10(ratio) if ratio > 0 else zero


def _figure(record: Record) -> Figure:
    figure = Figure(figsize=(WIDTH, FRAME + ROW * len(record.layers)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: no global state, no display
    return figure


def _legend(figure: Figure, axes: Axes, record: Record) -> None:
    """What the marks mean, below the name of the run."""
    parts = [label(record.config, section) for section in ("method", "accumulator", "model", "data")]
    title = ", ".join([*(part for part in parts if part != "-"), f"seed {record.seed}"])
    figure.legend(
        *axes.get_legend_handles_labels(),
        title=textwrap.fill(title, 58),
        title_fontsize=10,
        alignment="left",
        loc="outside upper left",
        ncols=2,
        frameon=False,
        handletextpad=0.2,
    )


def _series(
    axes: Axes,
    rows: Sequence[int],
    filled: Sequence[float],
    hollow: Sequence[float],
    labels: tuple[str, str] = ("activation", "weight"),
) -> None:
    axes.plot(filled, rows, label=labels[0], **FILLED)  # type: ignore[arg-type]
    axes.plot(hollow, rows, label=labels[1], **HOLLOW)  # type: ignore[arg-type]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    labels = [f"{name} {number}" for number, name in enumerate(short_names(names, NAME), start=1)]
    axes.set_yticks(range(len(names)), labels)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _style(axes: Axes) -> None:
    axes.grid(axis="y", color="0.85", linewidth=0.6)
    axes.grid(axis="x", color="0.7", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=10)
    axes.xaxis.label.set_fontsize(11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    # No creation date or version in the file: the same record gives the same bytes.
    figure.savefig(path, metadata={"Software": None})
