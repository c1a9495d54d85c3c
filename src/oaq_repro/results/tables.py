"""Comparison tables from records: one row per experiment and metric, mean and 95 % interval over seeds.

Tables are generated, never typed: the same records give the same bytes.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from oaq_repro.results import grid
from oaq_repro.results.grid import Grid
from oaq_repro.results.labels import SECTIONS
from oaq_repro.results.measures import METRICS, STAGE_LABELS, USUAL_STAGES
from oaq_repro.results.record import Record
from oaq_repro.results.summary import COSTS, RATIOS, Row, certified, experiments, percent, ratio, seen, summarize

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. Accuracy is the mean over seeds
± half of the 95 % interval (Student t), on held-out data. `integer` runs on the accumulator of the row,
`integer int32` on 32 bits; `a/w bits` are those of activations and weights. Overflow *seen* counts outputs with an
overflow on held-out data, all seeds together; a *certified* layer cannot overflow on any input. Time ratios are
those of the engine's modes on the machine of the run, one image on one thread: above 1 is slower than mode `fast`."""
RATIO_HEADS = tuple(f"time {mode} / fast" for mode in RATIOS)


def comparison(records: Sequence[Record]) -> list[Row]:
    """Rows of all finished records, ordered by their labels, then metric, then hash."""
    rows = [
        summarize(group, metric)
        for group in experiments(records)
        for metric in METRICS
        if any(metric in record.metric_names for record in group)
    ]
    return sorted(rows, key=lambda row: (row.labels, row.operands, METRICS.index(row.metric), row.hash))


def comparison_grid(rows: Sequence[Row]) -> Grid:
    """The comparison, metrics in percent."""
    heads = [*SECTIONS, "a/w bits", "metric", "seeds", *(f"{STAGE_LABELS[stage]} (%)" for stage in USUAL_STAGES)]
    heads += ["overflow seen: outputs", "overflow seen: images", "layers certified", *RATIO_HEADS, "run"]
    align = "l" * (len(SECTIONS) + 2) + "r" * (len(heads) - len(SECTIONS) - 3) + "l"
    return Grid("Comparison", NOTES, tuple(heads), align, tuple(map(_cells, rows)), "No finished run yet.")


def markdown(rows: Sequence[Row], unfinished: Sequence[Record] = ()) -> str:
    """The comparison as Markdown, with the list of runs that did not finish."""
    text = comparison_grid(rows).markdown()
    if not unfinished:
        return text
    failures = tuple(
        (record.hash, str(record.seed), record.status, record.provenance.error or "-")
        for record in sorted(unfinished, key=lambda record: (record.hash, record.seed))
    )
    found = Grid(
        "Runs that did not finish", "Never part of a mean.", ("run", "seed", "status", "error"), "llll", failures
    )
    return f"{text}\n#{found.markdown()}"


def csv_text(rows: Sequence[Row]) -> str:
    """The comparison as CSV: fractions, not percent."""
    stages = chain.from_iterable((stage, f"{stage}_half_95", f"{stage}_n") for stage in USUAL_STAGES)
    counts = ["overflow_outputs", "outputs", "images_affected", "images", "certified_min", "certified_max", "layers"]
    ratios = [f"{mode}_over_fast" for mode in RATIOS]
    heads = ["run", *SECTIONS, "operand_bits", "metric", "seeds", *stages, *counts, *ratios, *COSTS]
    lines = []
    for row in rows:
        values: list[Any] = [row.hash, *row.labels, row.operands, row.metric, row.seeds]
        for stage in USUAL_STAGES:
            found = row.stages.get(stage)
            values += [None, None, 0] if found is None else [found.mean, found.half, found.n]
        values += [row.overflow_outputs, row.outputs, row.images_affected, row.images]
        values += [min(row.certified), max(row.certified), row.layers]
        values += [row.ratios[mode].mean if mode in row.ratios else None for mode in RATIOS]
        lines.append([*values, *(row.costs.get(name) for name in COSTS)])
    return grid.csv_text(heads, lines)


def comparison_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `comparison.md`, `.csv` and `.tex`."""
    rows = comparison(records)
    unfinished = [record for record in records if record.status != "finished"]
    texts = {"md": markdown(rows, unfinished), "csv": csv_text(rows), "tex": comparison_grid(rows).latex()}
    return {f"comparison.{suffix}": text for suffix, text in texts.items()}


def _cells(row: Row) -> tuple[str, ...]:
    stages = (percent(row.stages.get(stage)) for stage in USUAL_STAGES)
    ratios = (ratio(row, mode) for mode in RATIOS)
    first = (*row.labels, row.operands, row.metric, str(row.seeds))
    return (*first, *stages, *seen(row), certified(row), *ratios, row.hash[:8])
