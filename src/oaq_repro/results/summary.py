"""What the seeds of one experiment say together: the numbers behind every table row."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from oaq_repro.results.labels import SECTIONS, label, name, operand_bits
from oaq_repro.results.measures import STAGES, Metric, Stage
from oaq_repro.results.record import Record
from oaq_repro.results.store import short_hash

CONFIDENCE = 0.95
COSTS = ("macs", "bops", "bops_qap", "weight_bytes", "density")
RATIOS = ("certified", "acc32")  # modes of the engine whose time is given relative to mode fast


@dataclass(frozen=True)
class Interval:
    """Mean over n seeds and half the width of its 95 % interval (None for one seed: nothing is known)."""

    mean: float
    half: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One experiment (all its finished seeds) and one metric. ratios: time of the engine's mode / time of `fast`.

    costs: mean over the records that have them, by field of the record's `cost`.
    """

    hash: str
    labels: tuple[str, ...]
    operands: str
    metric: Metric
    seeds: int
    stages: dict[Stage, Interval]
    overflow_outputs: int
    outputs: int
    images_affected: int
    images: int
    certified: tuple[int, ...]
    layers: int
    ratios: dict[str, Interval]
    costs: dict[str, float]


def interval(values: Sequence[float]) -> Interval:
    """Student t interval of the mean, n - 1 degrees of freedom; `values` must not be empty."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Interval(mean, float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * math.sqrt(variance / n), n)


def experiments(records: Sequence[Record]) -> list[list[Record]]:
    """Finished records by experiment, in order of hash; each experiment's in order of seed."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.hash, record.seed)):
        if record.status == "finished":
            groups[record.hash].append(record)
    return list(groups.values())


def network_key(record: Record) -> str:
    """What experiments on one network share: all but the method, the bits and the accumulator."""
    found = {k: v for k, v in (record.science or {}).items() if k not in ("method", "quantization")}
    return json.dumps([found, record.provenance.dataset_fingerprint], sort_keys=True)


def stem(record: Record, key: str) -> str:
    """Of the names of files on the experiments that share `key`."""
    return f"{name(record.config, 'data')}-{name(record.config, 'model')}-{short_hash(key)[:8]}"


def float_parents(groups: Iterable[Sequence[Record]], metric: Metric) -> Interval:
    """A metric of the float parents, one per seed, which these experiments share."""
    parents = {record.seed: record for group in groups for record in group}
    return interval(stage_values([parents[seed] for seed in sorted(parents)], "float", metric))


def stage_values(group: Sequence[Record], stage: Stage, metric: Metric) -> list[float]:
    """A metric of every record that reached the stage."""
    return [record.metrics[stage][metric] for record in group if metric in record.metrics.get(stage, {})]


def paired(
    group: Sequence[Record], stage: Stage, minus: Sequence[Record], other: Stage, metric: Metric
) -> Interval | None:
    """A metric of a stage minus that of the stage `other` of the runs `minus` with the same seeds; None without any.

    Runs of one seed have the same held-out data and the same float network, so that the interval is narrower than what
    two separate ones say.
    """
    others = {record.seed: record.metrics.get(other, {}).get(metric) for record in minus}
    pairs = [(record.metrics.get(stage, {}).get(metric), others.get(record.seed)) for record in group]
    found = [value - before for value, before in pairs if value is not None and before is not None]
    return interval(found) if found else None


def images_affected(group: Sequence[Record]) -> str:
    """Held-out images in which a sum overflows, of how many, all seeds together; "-" where none were looked at."""
    found = [record.overflow for record in group if record.overflow is not None]
    return f"{sum(o.images_affected for o in found):,}/{sum(o.images for o in found):,}" if found else "-"


def ratio_values(group: Sequence[Record], mode: str) -> list[float]:
    """Time of a mode / time of mode fast, of every record that has both."""
    times = [record.latency_ms for record in group]
    return [found[mode] / found["fast"] for found in times if mode in found and found.get("fast")]


def summarize(group: Sequence[Record], metric: Metric) -> Row:
    """The row of one experiment's records."""
    values = {stage: stage_values(group, stage, metric) for stage in STAGES}
    ratios = {mode: ratio_values(group, mode) for mode in RATIOS}
    costs = [record.cost for record in group if record.cost is not None]
    overflows = [record.overflow for record in group if record.overflow is not None]
    config = group[0].config
    return Row(
        hash=group[0].hash,
        labels=tuple(label(config, section) for section in SECTIONS),
        operands=operand_bits(config),
        metric=metric,
        seeds=len(group),
        stages={stage: interval(found) for stage, found in values.items() if found},
        overflow_outputs=sum(overflow.evaluation_events for overflow in overflows),
        outputs=sum(sum(overflow.outputs.values()) for overflow in overflows),
        images_affected=sum(overflow.images_affected for overflow in overflows),
        images=sum(overflow.images for overflow in overflows),
        certified=tuple(record.certified for record in group),
        layers=len(group[0].layers),
        ratios={mode: interval(found) for mode, found in ratios.items() if found},
        costs={name: math.fsum(getattr(cost, name) for cost in costs) / len(costs) for name in COSTS if costs},
    )


def percent(value: Interval | None) -> str:
    """A fraction as percent with its interval; "-" for None."""
    if value is None:
        return "-"
    return f"{100 * value.mean:.2f}" + ("" if value.half is None else f" ± {100 * value.half:.2f}")


def signed(value: Interval | None) -> str:
    """A difference of fractions in points with its interval; "-" for None."""
    if value is None:
        return "-"
    return f"{100 * value.mean:+.2f}" + ("" if value.half is None else f" ± {100 * value.half:.2f}")


def seen(row: Row) -> tuple[str, str]:
    """Overflow seen, in outputs and in images, all seeds together."""
    return (
        f"{row.overflow_outputs:,} of {row.outputs:,}" if row.outputs else "-",
        f"{row.images_affected:,} of {row.images:,}" if row.images else "-",
    )


def certified(row: Row) -> str:
    """Certified layers, least to most over the seeds."""
    least, most = min(row.certified), max(row.certified)
    return f"{least if least == most else f'{least}-{most}'} of {row.layers}" if row.layers else "-"


def ratio(row: Row, mode: str) -> str:
    """Mean time of a mode relative to mode fast."""
    return f"{row.ratios[mode].mean:.2f}" if mode in row.ratios else "-"
