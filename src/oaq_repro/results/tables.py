"""Comparison tables from records: one row per experiment and metric, mean and 95 % interval over seeds.

Tables are generated, never typed: the same records give the same bytes.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from scipy.special import stdtrit

from oaq_repro.files import write_atomic
from oaq_repro.results.labels import SECTIONS, label
from oaq_repro.results.record import METRICS, STAGE_LABELS, STAGES, Metric, Record, Stage

CONFIDENCE = 0.95
MARKDOWN_NAME = "comparison.md"
CSV_NAME = "comparison.csv"


@dataclass(frozen=True)
class Interval:
    """Mean over n seeds and half the width of its 95 % interval (None for one seed: nothing is known)."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One experiment (all its finished seeds) and one metric."""

    hash: str
    labels: tuple[str, ...]
    metric: Metric
    seeds: int
    stages: dict[Stage, Interval]
    overflow_outputs: int
    outputs: int
    images_affected: int
    images: int
    certified: tuple[int, ...]
    layers: int


def interval(values: Sequence[float]) -> Interval:
    """Student t interval of the mean, n - 1 degrees of freedom; `values` must not be empty."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Interval(mean, float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance / n), n)


def comparison(records: Sequence[Record]) -> list[Row]:
    """Rows of all finished records, ordered by their labels, then metric, then hash."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "finished":
            groups[record.hash].append(record)
    rows = [
        _row(group, metric)
        for group in groups.values()
        for metric in METRICS
        if any(metric in record.metric_names for record in group)
    ]
    return sorted(rows, key=lambda row: (row.labels, METRICS.index(row.metric), row.hash))


def markdown(rows: Sequence[Row], unfinished: Sequence[Record] = ()) -> str:
    """The comparison as Markdown, metrics in percent, with the list of runs that did not finish."""
    heads = [*SECTIONS, "metric", "seeds", *(f"{STAGE_LABELS[stage]} (%)" for stage in STAGES)]
    heads += ["overflow seen: outputs", "overflow seen: images", "layers certified", "run"]
    lines = [
        "# Comparison",
        "",
        "Generated from the run records by `scripts/make_tables.py`; do not edit. Accuracy is the mean over seeds",
        "± half of the 95 % interval (Student t), on held-out data. `integer` runs on the accumulator of the row,",
        "`integer int32` on 32 bits. Overflow *seen* counts outputs with an overflow on held-out data, all seeds",
        "together; a *certified* layer cannot overflow on any input.",
        "",
        _line(heads),
        _line(["---"] * (len(SECTIONS) + 1) + ["---:"] * (len(heads) - len(SECTIONS) - 2) + ["---"]),
    ]
    lines += [_line(_cells(row)) for row in rows] if rows else ["", "No finished run yet."]
    if unfinished:
        lines += ["", "## Runs that did not finish", "", _line(["run", "seed", "status", "error"]), _line(["---"] * 4)]
        lines += [
            _line([record.hash, str(record.seed), record.status, record.provenance.error or "-"])
            for record in sorted(unfinished, key=lambda record: (record.hash, record.seed))
        ]
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[Row]) -> str:
    """The comparison as CSV: fractions, not percent, with nothing rounded away."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    stages = chain.from_iterable((stage, f"{stage}_half_95", f"{stage}_n") for stage in STAGES)
    counts = ["overflow_outputs", "outputs", "images_affected", "images", "certified_min", "certified_max", "layers"]
    writer.writerow(["run", *SECTIONS, "metric", "seeds", *stages, *counts])
    for row in rows:
        values: list[Any] = [row.hash, *row.labels, row.metric, row.seeds]
        for stage in STAGES:
            found = row.stages.get(stage)
            values += ["", "", 0] if found is None else [found.mean, "" if found.half is None else found.half, found.n]
        values += [row.overflow_outputs, row.outputs, row.images_affected, row.images]
        writer.writerow([*values, min(row.certified), max(row.certified), row.layers])
    return buffer.getvalue()


def write_tables(records: Sequence[Record], folder: Path | str) -> list[Path]:
    """Write `comparison.md` and `comparison.csv` atomically; returns their paths."""
    folder = Path(folder)
    rows = comparison(records)
    unfinished = [record for record in records if record.status != "finished"]
    return [
        write_atomic(folder / MARKDOWN_NAME, markdown(rows, unfinished)),
        write_atomic(folder / CSV_NAME, csv_text(rows)),
    ]


def _row(group: Sequence[Record], metric: Metric) -> Row:
    group = sorted(group, key=lambda record: record.seed)
    values = {
        stage: [record.metrics[stage][metric] for record in group if metric in record.metrics.get(stage, {})]
        for stage in STAGES
    }
    overflows = [record.overflow for record in group if record.overflow is not None]
    return Row(
        hash=group[0].hash,
        labels=tuple(label(group[0].config, section) for section in SECTIONS),
        metric=metric,
        seeds=len(group),
        stages={stage: interval(found) for stage, found in values.items() if found},
        overflow_outputs=sum(overflow.evaluation_events for overflow in overflows),
        outputs=sum(sum(overflow.outputs.values()) for overflow in overflows),
        images_affected=sum(overflow.images_affected for overflow in overflows),
        images=sum(overflow.images for overflow in overflows),
        certified=tuple(record.certified for record in group),
        layers=len(group[0].layers),
    )


def _cells(row: Row) -> list[str]:
    least, most = min(row.certified), max(row.certified)
    return [
        *row.labels,
        row.metric,
        str(row.seeds),
        *(_percent(row.stages.get(stage)) for stage in STAGES),
        f"{row.overflow_outputs:,} of {row.outputs:,}" if row.outputs else "-",
        f"{row.images_affected:,} of {row.images:,}" if row.images else "-",
        f"{least if least == most else f'{least}-{most}'} of {row.layers}" if row.layers else "-",
        row.hash[:8],
    ]


def _percent(value: Interval | None) -> str:
    if value is None:
        return "-"
    return f"{100 * value.mean:.2f}" + ("" if value.half is None else f" ± {100 * value.half:.2f}")


def _line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.replace("|", "\\|").split()) for cell in cells)
    return "| " + " | ".join(escaped) + " |"
