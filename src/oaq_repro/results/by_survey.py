"""The survey's axes beside each other: codebooks, groups, ranges, calibration and rounding, each against its control.

Differences are paired over seeds: a row and its control quantize the same float networks.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.labels import at, label, name, operand_bits, survey_marks
from oaq_repro.results.measures import Metric
from oaq_repro.results.plotting import LINES, Plot, legend, mark, new_figure, style
from oaq_repro.results.record import Record
from oaq_repro.results.summary import (
    Interval,
    experiments,
    float_parents,
    images_affected,
    interval,
    paired,
    percent,
    signed,
    stage_values,
    stem,
    summarize,
)

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} on held-out data in percent: mean over
seeds ± half of the 95 % interval (Student t). *simulated*: with exact sums. *over control*: above the row that has a
dash there, with uniform weights at a scale per channel, extremes of real images as ranges and rounding to the nearest,
at the same bits and after as much training; paired over seeds. *integer*: on the row's accumulator, without settling;
*overflow*: held-out images in which a sum leaves it, all seeds together. *longest block*: products in a row that no
input can bring out of 16 bits, the median over layers and seeds. *weights*: bytes, with codebooks and shifts.
Float: {float} %."""
HEADS = (
    "method", "a/w bits", "seeds", "simulated", "over control", "accumulator", "integer", "overflow", "longest block",
    "weights (bytes)",
)  # fmt: skip
KINDS = ("int8", "codebook", "group_scale")


@dataclass(frozen=True)
class _Row:
    """One experiment. control: the runs it is compared with, empty where it is one."""

    group: Sequence[Record]
    control: Sequence[Record]
    metric: Metric

    @property
    def label(self) -> str:
        return label(self.group[0].config, "method")

    @property
    def bits(self) -> str:
        return operand_bits(self.group[0].config)

    @property
    def simulated(self) -> Interval:
        return interval(stage_values(self.group, "simulated", self.metric))

    @property
    def gain(self) -> Interval | None:
        return paired(self.group, "simulated", self.control, "simulated", self.metric)

    @property
    def integer(self) -> Interval | None:
        values = stage_values(self.group, "integer", self.metric)
        return interval(values) if values else None

    @property
    def longest_block(self) -> float | None:
        found = [x.longest_block for record in self.group for x in record.layers if x.longest_block is not None]
        return float(median(found)) if found else None


def survey_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `survey-<data>-<model>-<hash>.md` and `.csv`, where runs have an axis of the survey."""
    files: dict[str, str] = {}
    for own, rows in _tables(records).items():
        files |= {f"{own}.md": _grid(rows).markdown(), f"{own}.csv": _csv(rows)}
    return files


def survey_figures(records: Sequence[Record]) -> list[Plot]:
    """The tables as figures, with a panel for fewer bits of weights, of activations, and for as many of both."""
    return [_figure(own, rows) for own, rows in _tables(records).items()]


def _tables(records: Sequence[Record]) -> dict[str, list[_Row]]:
    by_network: dict[str, list[list[Record]]] = defaultdict(list)
    for group in experiments(records):
        if at(group[0].config, "method", "kind") in KINDS and "simulated" in group[0].metrics and _plain(group[0]):
            by_network[_key(group[0])].append(group)
    tables = {}
    for key, groups in by_network.items():
        controls = {_beside(group[0]): group for group in groups if not _own(group[0])}
        metric = groups[0][0].metric_names[0]
        rows = [_Row(group, controls.get(_beside(group[0]), []), metric) for group in groups if _own(group[0])]
        if rows:
            used = {id(row.control): row.control for row in rows if row.control}
            rows += [_Row(control, [], metric) for control in used.values()]
            own = f"survey-{stem(rows[0].group[0], key)}"
            tables[own] = sorted(rows, key=lambda row: (row.bits, bool(row.control), row.label, row.group[0].hash))
    return tables


def _own(record: Record) -> bool:
    """Whether a run has an axis of the survey, so that it is no control."""
    return at(record.config, "method", "kind") != "int8" or bool(survey_marks(record.config))


def _plain(record: Record) -> bool:
    """Whether nothing else than the axes differs from a plain run."""
    config = record.config
    return (
        at(config, "method", "settle") is None
        and at(config, "method", "search") is None
        and not at(config, "method", "bias_correction")
        and at(config, "quantization", "requantization") in (None, "float32")
    )


def _beside(record: Record) -> tuple[object, ...]:
    """What a row has in common with its control, besides data, network and training."""
    config = record.config
    return operand_bits(config), at(config, "method", "fine_tune"), label(config, "accumulator")


def _key(record: Record) -> str:
    """What rows of one table share: all but the method and the quantization."""
    found = {k: v for k, v in (record.science or {}).items() if k not in ("method", "quantization")}
    return json.dumps([found, record.provenance.dataset_fingerprint], sort_keys=True)


def _cells(row: _Row) -> tuple[str, ...]:
    cost, block = summarize(row.group, row.metric).costs, row.longest_block
    return (
        row.label,
        row.bits,
        str(len(row.group)),
        percent(row.simulated),
        signed(row.gain),
        label(row.group[0].config, "accumulator"),
        "simulated only" if row.integer is None else percent(row.integer),
        images_affected(row.group),
        "-" if block is None else f"{block:g}",
        f"{cost['weight_bytes']:,.0f}" if cost else "-",
    )


def _grid(rows: Sequence[_Row]) -> Grid:
    metric, config = rows[0].metric, rows[0].group[0].config
    values = float_parents((row.group for row in rows), metric)
    title = f"Axes of the survey: {name(config, 'data')}, {name(config, 'model')}"
    return Grid(
        title, NOTES.format(metric=metric, float=percent(values)), HEADS, "llrrrlrrrr", tuple(map(_cells, rows))
    )


def _csv(rows: Sequence[_Row]) -> str:
    heads = ["run", "method", "operand_bits", "seeds", "simulated", "simulated_half_95", "over_control"]
    heads += ["over_control_half_95", "integer", "integer_half_95", "images_affected", "longest_block", "weight_bytes"]
    lines = []
    for row in rows:
        found = [v for x in (row.simulated, row.gain, row.integer) for v in ((x.mean, x.half) if x else (None, None))]
        bytes_ = summarize(row.group, row.metric).costs.get("weight_bytes")
        last = [images_affected(row.group), row.longest_block, bytes_]
        lines.append([row.group[0].hash, row.label, row.bits, len(row.group), *found, *last])
    return csv_text(heads, lines)


def _figure(own: str, rows: Sequence[_Row]) -> Plot:
    panels: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        activations, weights = _bits(row)
        side = "fewer bits of weights" if weights < activations else "fewer bits of activations"
        panels["as many bits of both" if weights == activations else side].append(row)
    heights = [len({row.label for row in found}) for found in panels.values()]
    figure = new_figure(1.6 + 0.26 * sum(heights) + 0.5 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    widths = sorted({min(_bits(row)) for found in panels.values() for row in found}, reverse=True)
    for place, (side, found) in zip(axes, panels.items(), strict=True):
        _panel(place, found, widths)
        place.set_title(side, fontsize=10, loc="left")
    axes[-1].set_xlabel(f"{rows[0].metric}, simulated (%)", fontsize=11)
    handles = [
        Line2D([], [], label=f"{width} bits", color="black", linestyle=LINES[n % len(LINES)], **mark(n, False))
        for n, width in enumerate(widths)
    ]
    legend(figure, handles, "Axes of the survey; lines: the control of as many bits, not trained")
    heads = ["method", "operand_bits", "simulated", "half_95", "seeds"]
    shown = [row for found in panels.values() for row in found]
    return Plot(
        own, figure, heads, [[r.label, r.bits, r.simulated.mean, r.simulated.half, r.simulated.n] for r in shown]
    )


def _bits(row: _Row) -> tuple[int, ...]:
    """Of activations and weights."""
    return tuple(int(bits) for bits in row.bits.split("/"))


def _panel(axes: Axes, rows: Sequence[_Row], widths: Sequence[int]) -> None:
    labels = list(dict.fromkeys(row.label for row in rows))
    for row in rows:
        number = widths.index(min(_bits(row)))
        value, at_height = row.simulated, len(labels) - labels.index(row.label) + 0.15 - 0.3 * number
        axes.plot([100 * value.mean], [at_height], color="black", linestyle="none", **mark(number, False))
        if value.half is not None:
            ends = [100 * max(0.0, value.mean - value.half), 100 * min(1.0, value.mean + value.half)]
            axes.plot(ends, [at_height] * 2, color="black", linewidth=0.9)
        if not row.control and not at(row.group[0].config, "method", "fine_tune"):
            axes.axvline(100 * value.mean, color="0.5", linewidth=0.9, linestyle=LINES[number % len(LINES)])
    axes.set_yticks(range(len(labels), 0, -1), labels)
    axes.set_ylim(0.4, len(labels) + 0.6)
    style(axes, "", "")
    axes.tick_params(axis="y", labelsize=9)
