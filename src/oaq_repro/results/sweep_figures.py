"""Figures of a sweep: what is lost at each width of the accumulator; accuracy against the time of the engine."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from oaq_repro.accumulator import Accumulator
from oaq_repro.results.measures import Metric
from oaq_repro.results.plotting import LINES, REFERENCES, Plot, legend, mark, new_figure, style
from oaq_repro.results.summary import Interval
from oaq_repro.results.sweep import Point, Sweep

METRIC_LABELS: dict[Metric, str] = {
    "top1": "top-1",
    "map50": "mAP at 0.5",
    "map": "mAP",
    "voc_ap": "VOC AP",
    "voc07_ap": "VOC 2007 AP",
    "miou": "mIoU",
}
LINEAR = 2.0
"""Points about zero in which differences are drawn to scale; beyond, by their logarithm: noise and collapse in one."""
TICKS = (5, 2, 1, 0, -1, -2, -5, -10, -20, -50, -90)
GUARANTEE = (
    "hollow: mode fast, overflow is possible; filled: no input can overflow\n"
    "joined: modes fast and certified of one network"
)

LEGENDS = ((22, 3, 9.5), (34, 2, 9.5), (42, 2, 8.0))
"""Columns and size of the letters, by the length of the longest name; one column where it is longer still."""


def accuracy_bits(sweep: Sweep) -> Plot | None:
    """What is lost on the accumulator (one wrapping sum) against its bits; None without two widths below 32.

    Marks are means over seeds of the differences to the float parent of the same seed, with their 95 % intervals, moved
    apart sideways; methods stand in order of what they lose on the narrowest accumulator. Methods whose every network
    is certified have a panel of their own. Lines across: the float parent, and INT8 on 32 bits.
    """
    series = {name: _whole_sums(points) for name, points in sweep.series.items()}
    order = sorted((name for name in series if series[name]), key=lambda name: _rank(name, series[name]))
    widths = sorted({point.accumulator.bits for points in series.values() for point in points})
    if len(widths) < 2:
        return None
    certified = [name for name in order if all(point.guaranteed for point in series[name])]
    panels = {
        "overflow is possible (empirical)": [name for name in order if name not in certified],
        "no input can overflow (certified)": certified,
    }
    panels = {title: names for title, names in panels.items() if names}
    fitting = [(columns, size) for longest, columns, size in LEGENDS if max(map(len, order)) <= longest]
    columns, size = fitting[0] if fitting else (1, 9.5)
    figure = new_figure(0.6 + 2.5 * len(panels) + 0.2 * ((len(order) + 1 + columns) // columns))
    looks = {name: {"linewidth": 0.9, "linestyle": LINES[i % len(LINES)]} for i, name in enumerate(order)}
    subplots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, names) in zip(subplots, panels.items(), strict=True):
        axes.set_yscale("symlog", linthresh=LINEAR)
        axes.margins(y=0.06)
        for place, name in enumerate(names):
            apart = 0.6 * (place - (len(names) - 1) / 2) / max(len(names), 4)
            x = [widths.index(point.accumulator.bits) + apart for point in series[name]]
            _series(axes, series[name], x, order.index(name), looks[name])
        references = _references(axes, sweep)
        axes.set_xticks(range(len(widths)), [str(width) for width in widths])
        axes.set_xlim(-0.5, len(widths) - 0.5)
        axes.set_title(title, fontsize=10, loc="left")
        style(axes, "", f"{METRIC_LABELS[sweep.metric]} minus float (points)")
        axes.yaxis.label.set_fontsize(9.5)
        axes.autoscale_view()
        low, high = axes.get_ylim()
        axes.set_yticks(
            shown := [tick for tick in TICKS if low <= tick <= high], [f"{tick:+d}" if tick else "0" for tick in shown]
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(visible=False, axis="x")
        for place in range(len(widths) - 1):  # which marks belong to which width
            axes.axvline(place + 0.5, color="0.85", linewidth=0.6, zorder=0)
    handles = [
        Line2D([], [], label=name, color="black", **looks[name], **mark(number, name in certified))
        for number, name in enumerate(order)
    ]
    axes.set_xlabel("accumulator bits", fontsize=11)
    legend(figure, [*handles, *references], sweep.title, columns, size)
    heads = ["method", "bits", "difference", "half_95", "n", "certified", "run"]
    rows: list[list[Any]] = [
        [name, p.accumulator.bits, _difference(p).mean, _difference(p).half, p.accuracy.n, int(p.guaranteed), p.hash]
        for name in sorted(series)
        for p in series[name]
    ]
    if (value := sweep.reference) is not None:
        rows.append(["int8 on int32", 32, value.mean, value.half, value.n, None, None])
    return Plot(f"accuracy_bits-{sweep.name}", figure, heads, rows)


def accuracy_latency(sweep: Sweep) -> Plot | None:
    """Accuracy against milliseconds of one image on one thread: all methods on int16, and INT8 on int32.

    A method's two marks: mode `fast` on its accumulator, and, filled, mode `certified`, whose sums are exact. None
    where times are missing or come from several kinds of processor.
    """
    points = [(name, point) for name, found in sweep.series.items() for point in found if _timed(name, point)]
    if len(points) < 2 or len(sweep.cpus) != 1:
        return None
    figure = new_figure(3.6 + 0.2 * ((len(points) + 2) // 2))
    axes = figure.subplots()
    handles, rows = [], []
    for number, (name, point) in enumerate(points):
        x = [point.latency["fast"], point.latency["certified"]]
        y = [100 * point.accuracy.mean, 100 * point.exact.mean]
        axes.plot(x, y, color="0.55", linewidth=0.9)
        for place, height, filled in zip(x, y, (point.guaranteed, True), strict=True):
            axes.plot(place, height, linestyle="none", **mark(number, filled))
        text = f"{name}, {point.accumulator.name}"
        handles.append(Line2D([], [], linestyle="none", label=text, **mark(number, point.guaranteed)))
        for mode, time, value in zip(("fast", "certified"), x, (point.accuracy, point.exact), strict=True):
            rows.append([name, point.accumulator.name, mode, time, value.mean, value.half, value.n, point.hash])
    style(axes, f"ms, one image, one thread of {sweep.cpus[0]}", f"{METRIC_LABELS[sweep.metric]} (%)")
    axes.xaxis.label.set_fontsize(9.5)
    legend(figure, handles, f"{sweep.title}\n{GUARANTEE}")
    heads = ["method", "accumulator", "mode", "ms", "accuracy", "half_95", "n", "run"]
    return Plot(f"accuracy_latency-{sweep.name}", figure, heads, rows)


def _whole_sums(points: Sequence[Point]) -> list[Point]:
    """Points on one wrapping sum of less than 32 bits with a float parent; of several of a width, the first."""
    kept: dict[int, Point] = {}
    for point in points:
        bits = point.accumulator.bits
        if point.accumulator == Accumulator(bits=bits) and bits < 32 and point.difference is not None:
            kept.setdefault(bits, point)
    return list(kept.values())


def _timed(name: str, point: Point) -> bool:
    accumulators = [Accumulator(), Accumulator(bits=32)] if name == "int8" else [Accumulator()]
    return point.accumulator in accumulators and {"fast", "certified"} <= set(point.latency)


def _rank(name: str, points: Sequence[Point]) -> tuple[float, str]:
    return -_difference(points[0]).mean, name


def _difference(point: Point) -> Interval:
    assert point.difference is not None  # `_whole_sums`
    return point.difference


def _series(axes: Axes, points: Sequence[Point], x: Sequence[float], number: int, look: dict[str, Any]) -> None:
    """Means joined by a line, each with its interval and its mark."""
    axes.plot(x, [100 * _difference(point).mean for point in points], color="black", **look)
    for place, point in zip(x, points, strict=True):
        mean, half = 100 * _difference(point).mean, 100 * (_difference(point).half or 0.0)
        ends = [max(-100.0, mean - half), min(100.0, mean + half)]
        axes.plot([place, place], ends, color="0.65", linewidth=1.8, solid_capstyle="butt")
        axes.plot(place, mean, linestyle="none", **mark(number, point.guaranteed))


def _references(axes: Axes, sweep: Sweep) -> list[Line2D]:
    handles = []
    named = (("float parent", 0.0), ("int8 on int32", sweep.reference.mean if sweep.reference else None))
    for (name, value), line in zip(named, REFERENCES, strict=True):
        if value is not None:
            axes.axhline(100 * value, color="0.45", linewidth=1.6, linestyle=line)
            handles.append(Line2D([], [], color="0.45", linewidth=1.6, linestyle=line, label=name))
    return handles
