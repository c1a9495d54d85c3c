"""What integer requantization costs: experiments that differ in nothing else, paired over seeds."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from oaq_repro.requantization import REQUANTIZATIONS
from oaq_repro.results.grid import Grid
from oaq_repro.results.labels import at, label
from oaq_repro.results.measures import Stage
from oaq_repro.results.record import Record
from oaq_repro.results.summary import (
    experiments,
    images_affected,
    interval,
    paired,
    percent,
    signed,
    stage_values,
    stem,
)

USUAL, *OTHERS = REQUANTIZATIONS
NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} of the integer network on the row's
accumulator, mean over seeds ± half of the 95 % interval (Student t), in percent; for the other requantizations its
difference to float32, in points, of the paired differences over seeds. In brackets the held-out images in which a sum
overflows, all seeds together. "Exact sums" is the same graph with 32-bit accumulators, whose results fixed16 saturates
to 16 bits all the same."""
STAGES: dict[Stage, str] = {"integer": "", "integer_int32": ", exact sums"}


def requantization_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `requantization-<data>-<model>-<hash>.md`: one per what the experiments of a table share."""
    tables: dict[str, dict[str, dict[str, list[Record]]]] = defaultdict(lambda: defaultdict(dict))
    for group in experiments(records):
        if "integer" in group[0].metrics and group[0].science is not None:
            shared, own = _science(group[0])
            tables[shared][own][at(group[0].config, "quantization", "requantization") or USUAL] = group
    files = {}
    for shared, rows in sorted(tables.items()):
        compared = [row for _, row in sorted(rows.items()) if USUAL in row and len(row) > 1]
        if compared:
            files[f"requantization-{stem(compared[0][USUAL][0], shared)}.md"] = _grid(compared).markdown()
    return files


def _science(record: Record) -> tuple[str, str]:
    """What identifies an experiment but for its requantization: what a table shares, and what is a row's own."""
    found: dict[str, Any] = dict(record.science or {})
    quantization = dict(found.pop("quantization", None) or {})
    quantization.pop("requantization", None)
    own = {"method": found.pop("method", None), "accumulator": quantization.pop("accumulator", None)}
    shared = [found, quantization, record.provenance.dataset_fingerprint]
    return json.dumps(shared, sort_keys=True), json.dumps(own, sort_keys=True)


def _grid(rows: Sequence[Mapping[str, list[Record]]]) -> Grid:
    first = rows[0][USUAL][0]
    metric = first.metric_names[0]
    heads = ["method", "accumulator"]
    for more in STAGES.values():
        heads += [f"{USUAL}{more}", *(f"{kind}{more}" for kind in OTHERS)]
    lines = []
    for row in rows:
        usual = row[USUAL]
        line = [label(usual[0].config, "method"), label(usual[0].config, "accumulator")]
        for stage in STAGES:
            values = stage_values(usual, stage, metric)
            line.append(f"{percent(interval(values) if values else None)}{_seen(usual, stage)}")
            line += [_difference(row.get(kind, ()), usual, stage) for kind in OTHERS]
        lines.append(tuple(line))
    title = f"Requantization: {label(first.config, 'data')}, {label(first.config, 'model')}"
    notes = NOTES.format(metric=metric)
    return Grid(title, notes, tuple(heads), "ll" + "r" * (len(heads) - 2), tuple(lines))


def _difference(group: Sequence[Record], usual: Sequence[Record], stage: Stage) -> str:
    if not group:
        return "-"
    return f"{signed(paired(group, stage, usual, stage, group[0].metric_names[0]))}{_seen(group, stage)}"


def _seen(group: Sequence[Record], stage: Stage) -> str:
    return f" [{images_affected(group)}]" if stage == "integer" else ""
