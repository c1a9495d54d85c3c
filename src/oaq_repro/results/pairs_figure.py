"""What the sums of a processor without VNNI do to networks of 8 bits: exact, in saturating pairs, in 16 bits."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from oaq_repro.results.by_pairs import Measured, by_experiment
from oaq_repro.results.labels import label
from oaq_repro.results.plotting import Plot, mark, new_figure, style
from oaq_repro.results.summary import Interval, interval, network_key

FARTHEST, END = -8.0, 2.5  # points: what is lost beyond has an arrow and its number
HEADS = ("model", "method", "sums", "seeds", "difference", "half_95")
EXACT, DEFAULT = "exact sums", "ONNX Runtime's default"
Row = tuple[str, str, Interval]


def pairs_figures(measured: Measured) -> list[Plot]:
    """One per data set, a panel per network: the headline metric minus float, in points, means and 95 % intervals."""
    panels: dict[str, dict[str, list[Measured]]] = {}
    for group in by_experiment(measured):
        record = group[0][0]
        panels.setdefault(label(record.config, "data"), {}).setdefault(network_key(record), []).append(group)
    return [_figure(data, list(networks.values())) for data, networks in sorted(panels.items())]


def _figure(data: str, networks: Sequence[Sequence[Measured]]) -> Plot:
    rows = {label(groups[0][0][0].config, "model"): _rows(groups) for groups in networks}
    figure = new_figure(0.9 + sum(0.5 + 0.27 * len(found) for found in rows.values()))
    heights = [0.5 + 0.27 * len(found) for found in rows.values()]
    all_axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (model, found) in zip(all_axes, sorted(rows.items()), strict=True):
        _panel(axes, model, found)
    metric = networks[0][0][0][0].metric_names[0]
    all_axes[-1].set_xlabel(f"{metric} minus float, points (AVX2, no VNNI)", fontsize=11)
    lines = [
        (model, method, sums, value.n, 100 * value.mean, None if value.half is None else 100 * value.half)
        for model, found in sorted(rows.items())
        for method, sums, value in found
    ]
    return Plot(f"saturating_pairs-{data}", figure, HEADS, lines)


def _rows(groups: Sequence[Measured]) -> list[Row]:
    """Every experiment's kinds of sums that give different results, in this order."""
    found: list[Row] = []
    for group in sorted(groups, key=lambda group: label(group[0][0].config, "method")):
        record = group[0][0]
        metric, method = record.metric_names[0], label(record.config, "method")
        base = [each.metrics["float"][metric] for each, _ in group]

        def minus(values: Sequence[float], base: Sequence[float] = base) -> Interval:
            return interval([value - usual for value, usual in zip(values, base, strict=True)])

        found.append((method, EXACT, minus([pairs.exact[metric] for _, pairs in group])))
        if any(pairs.changed for _, pairs in group):
            found.append((method, DEFAULT, minus([pairs.default[metric] for _, pairs in group])))
        narrow = label(record.config, "accumulator")
        if narrow != "int32":
            found.append((method, f"{narrow} sums", minus([each.metrics["integer"][metric] for each, _ in group])))
    return found


def _panel(axes: Axes, model: str, rows: Sequence[Row]) -> None:
    for place, (_, sums, value) in enumerate(rows):
        mean, half = 100 * value.mean, 100 * (value.half or 0.0)
        at = max(mean, FARTHEST)
        looks = mark(0, filled=sums == EXACT)
        if mean >= FARTHEST:
            axes.plot([max(mean - half, FARTHEST), mean + half], [place, place], color="black", linewidth=1.0)
        else:
            looks["marker"] = "<"
        axes.plot([at], [place], linestyle="none", **looks)
        axes.annotate(f"{mean:+.1f}", (at, place), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    style(axes, "", "")
    axes.set_yticks(range(len(rows)), [f"{method}, {sums}" for method, sums, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.9)
    axes.set_xlim(FARTHEST - 0.7, END)
    axes.xaxis.set_major_locator(MultipleLocator(2))
    axes.axvline(0, color="black", linewidth=0.8, linestyle=(0, (2, 2)))
    axes.set_title(model, fontsize=11, loc="left")
