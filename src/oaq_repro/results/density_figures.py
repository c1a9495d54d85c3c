"""Figures of pruning: accuracy against bit operations, and what zeros give a narrow accumulator."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from oaq_repro.results.by_density import Pruned, alpha_mean, block_mean, pruned_experiments
from oaq_repro.results.labels import name
from oaq_repro.results.plotting import LINES, Plot, legend, mark, new_figure, style
from oaq_repro.results.record import Record
from oaq_repro.results.summary import interval, stage_values, stem
from oaq_repro.results.sweep_figures import METRIC_LABELS

Value = Callable[[Record], float | None]


def density_plots(records: Sequence[Record]) -> list[Plot]:
    """Both figures of every network of which there are several densities."""
    made = []
    for key, found in pruned_experiments(records).items():
        if len({x.density for x in found}) > 1:
            made.append(accuracy_bops(found, stem(found[0].first, key)))
            if any(x.first.layers for x in found):
                made.append(blocks_density(found, stem(found[0].first, key)))
    return made


def accuracy_bops(found: Sequence[Pruned], file: str) -> Plot:
    """Means over seeds with 95 % intervals against QAP's bit operations, in the convention of its code, by densities.

    Filled where all layers of all seeds are certified. Random pruning starts at the dense network, too. Series in which
    a sum overflows are left out: their accuracy is that of the accumulator.
    """
    series: dict[str, list[Pruned]] = defaultdict(list)
    broken = {own.series for own in found if any(r.overflow and r.overflow.evaluation_events for r in own.group)}
    for own in [own for own in found if own.series not in broken]:
        rankings = {own.ranking} if own.step else {other.ranking for other in found if other.series == own.series}
        for ranking in sorted(rankings):
            series[f"{own.bits} bits, {own.after}{', random' * (ranking == 'random')}"].append(own)
    figure = new_figure(3.4 + 0.2 * ((len(series) + 2) // 2))
    axes = figure.subplots()
    handles, rows = [], []
    for number, (label, points) in enumerate(series.items()):
        x = [(p.cost("bops_qap_reference") or 0.0) / 1000 for p in points]
        values = [interval(stage_values(p.group, p.stage, p.metric)) for p in points]
        look = {"color": "black", "linewidth": 0.9, "linestyle": LINES[number % len(LINES)]}
        axes.plot(x, [100 * v.mean for v in values], **look)
        for place, value, p in zip(x, values, points, strict=True):
            filled = bool(p.first.layers) and all(r.certified == len(r.layers) for r in p.group)
            half = value.half or 0.0
            ends = [100 * max(0.0, value.mean - half), 100 * min(1.0, value.mean + half)]
            axes.plot([place, place], ends, color="0.6", linewidth=2.0, solid_capstyle="butt")
            axes.plot(place, 100 * value.mean, linestyle="none", **mark(number, filled))
            rows.append([label, p.density, 1000 * place, value.mean, value.half, value.n, int(filled), p.first.hash])
        handles.append(Line2D([], [], label=label, **look, **mark(number, False)))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    style(axes, "thousand bit operations of an image (QAP, as its code counts)", METRIC_LABELS[found[0].metric])
    legend(figure, handles, f"{_title(found)}\nfilled: no input can overflow a layer")
    heads = ["series", "density", "bops_qap_reference", "accuracy", "half_95", "n", "certified", "run"]
    return Plot(f"pruning_accuracy-{file}", figure, heads, rows)


def blocks_density(found: Sequence[Pruned], file: str) -> Plot:
    """Certified blocks, largest reachable sums and range mapping factors against density, means over seeds."""

    def worst(record: Record) -> float | None:
        return max((layer.worst_case for layer in record.layers if layer.worst_case is not None), default=None)

    panels: dict[str, tuple[str, Value]] = {
        "blocks": ("certified block /\nwhole sum", block_mean),
        "worst_case": ("reachable sum /\nlimit, worst layer", worst),
        "alpha": ("alpha, input\ntimes weights", alpha_mean),
    }
    series: dict[str, list[Pruned]] = defaultdict(list)
    for x in found:
        if x.first.layers and x.ranking == "magnitude":
            series[f"{x.bits} bits, {x.after}"].append(x)
    figure = new_figure(5.2 + 0.2 * ((len(series) + 2) // 2))
    rows: list[list[Any]] = []
    values = {(key, p.first.hash): p.mean(value) for key, (_, value) in panels.items() for p in found if p.first.layers}
    subplots = figure.subplots(len(panels), 1, sharex=True)
    for axes, (key, (text, _)) in zip(subplots, panels.items(), strict=True):
        for number, points in enumerate(series.values()):
            y = [values[key, p.first.hash] for p in points]
            look = {"color": "black", "linewidth": 0.9, "linestyle": LINES[number % len(LINES)]}
            axes.plot([p.density for p in points], y, **look, **mark(number, False))
        style(axes, "", text)
        axes.yaxis.label.set_fontsize(10)
    _densities(subplots[-1], sorted({p.density for points in series.values() for p in points}))
    for label, points in series.items():
        rows += [[label, p.density, *(values[key, p.first.hash] for key in panels), p.first.hash] for p in points]
    handles = [
        Line2D([], [], color="black", linewidth=0.9, linestyle=LINES[n % len(LINES)], label=label, **mark(n, False))
        for n, label in enumerate(series)
    ]
    legend(figure, handles, f"{_title(found)}; means over layers and seeds")
    return Plot(f"pruning_blocks-{file}", figure, ["series", "density", *panels, "run"], rows)


def _densities(axes: Axes, densities: Sequence[float]) -> None:
    """From dense to sparse, each with its number."""
    axes.set_xscale("log")
    axes.set_xticks(densities, [f"{density:g}" for density in densities])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.invert_xaxis()
    axes.set_xlabel("part of the weights that is left", fontsize=11)


def _title(found: Sequence[Pruned]) -> str:
    return f"Pruning: {name(found[0].first.config, 'data')}, {name(found[0].first.config, 'model')}"
