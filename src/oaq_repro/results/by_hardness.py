"""What hardening costs: networks that a stage before folding trains, with soft and hard weights, and as integers.

Differences are paired over seeds: soft, hard and integer network of one seed come from one training.
"""

from collections import defaultdict
from collections.abc import Sequence

from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.labels import at, label, name, operand_bits
from oaq_repro.results.measures import Metric
from oaq_repro.results.record import Record
from oaq_repro.results.summary import (
    Interval,
    certified,
    experiments,
    float_parents,
    network_key,
    paired,
    percent,
    signed,
    stem,
    summarize,
)

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} on held-out data in percent: mean over
seeds ± half of the 95 % interval (Student t). *soft*: the float network as it is trained before batch norm is folded,
*hard*: with the weights that are then quantized, *integer*: on its accumulator, with quantized activations. Differences
are paired over seeds. *levels*: distinct codes of a layer's weights, the most of any layer. *over argmax*: hard
accuracy above that of the same training with hard weights in every step (PICM, BinaryConnect). Float: {float} %."""
HEADS = (
    "method", "a/w bits", "accumulator", "seeds", "soft", "hard", "hard - soft", "integer", "integer - hard",
    "over argmax", "levels", "layers certified", "weights (bytes)",
)  # fmt: skip


def hardness_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `hard-<data>-<model>-<hash>.md` and `.csv`, where runs have a stage before folding."""
    by_network: dict[str, list[list[Record]]] = defaultdict(list)
    for group in experiments(records):
        if "hard" in group[0].metrics and "integer" in group[0].metrics and group[0].pruning is None:
            by_network[network_key(group[0])].append(group)
    files: dict[str, str] = {}
    for key, groups in by_network.items():
        record = groups[0][0]
        groups.sort(key=lambda g: (label(g[0].config, "method"), label(g[0].config, "accumulator"), g[0].hash))
        own = f"hard-{stem(record, key)}"
        files |= {f"{own}.md": _grid(groups, record).markdown(), f"{own}.csv": _csv(groups, record)}
    return files


def _hard_all_along(groups: Sequence[Sequence[Record]], like: Sequence[Record]) -> Sequence[Record]:
    """The runs of projection argmax on the same accumulator and with the same bits as `like`, but for itself."""
    same = (label(like[0].config, "accumulator"), operand_bits(like[0].config))
    for group in groups:
        config = group[0].config
        own = (label(config, "accumulator"), operand_bits(config))
        if at(config, "method", "weights", "projection") == "argmax" and own == same and group is not like:
            return group
    return []


def _differences(groups: Sequence[Sequence[Record]], group: Sequence[Record], metric: Metric) -> list[Interval | None]:
    return [
        paired(group, "hard", group, "soft", metric),
        paired(group, "integer", group, "hard", metric),
        paired(group, "hard", _hard_all_along(groups, group), "hard", metric),
    ]


def _levels(group: Sequence[Record]) -> int:
    return max(layer.levels_weight or 0 for record in group for layer in record.layers)


def _grid(groups: Sequence[Sequence[Record]], record: Record) -> Grid:
    metric = record.metric_names[0]
    rows = []
    for group in groups:
        row = summarize(group, metric)
        to_soft, to_hard, over = map(signed, _differences(groups, group, metric))
        config = group[0].config
        first = (label(config, "method"), row.operands, label(config, "accumulator"), str(row.seeds))
        soft, hard, integer = (percent(row.stages.get(stage)) for stage in ("soft", "hard", "integer"))
        last = (str(_levels(group)), certified(row), f"{row.costs['weight_bytes']:,.0f}" if row.costs else "-")
        rows.append((*first, soft, hard, to_soft, integer, to_hard, over, *last))
    values = float_parents(groups, metric)
    title = f"Soft and hard weights: {name(record.config, 'data')}, {name(record.config, 'model')}"
    notes = NOTES.format(metric=metric, float=percent(values))
    return Grid(title, notes, HEADS, "lllrrrrrrrrlr", tuple(rows))


def _csv(groups: Sequence[Sequence[Record]], record: Record) -> str:
    metric, stages = record.metric_names[0], ("soft", "hard", "integer")
    names = [*stages, "hard_minus_soft", "integer_minus_hard", "over_argmax"]
    heads = ["run", "method", "operand_bits", "accumulator", "seeds", *(h for n in names for h in (n, f"{n}_half_95"))]
    lines = []
    for group in groups:
        row = summarize(group, metric)
        found = [*(row.stages.get(stage) for stage in stages), *_differences(groups, group, metric)]  # type: ignore[call-overload]
        values = [v for x in found for v in ((None, None) if x is None else (x.mean, x.half))]
        config = group[0].config
        lines.append(
            [row.hash, label(config, "method"), row.operands, label(config, "accumulator"), row.seeds, *values]
        )
    return csv_text(heads, lines)
