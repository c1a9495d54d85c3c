"""Which experiments belong into one figure: equal in all but the method, the accumulator and uniform operand bits."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.results.labels import at, label, operand_bits
from oaq_repro.results.measures import Metric
from oaq_repro.results.record import Record
from oaq_repro.results.summary import Interval, experiments, float_parents, interval, paired, stage_values

UNIFORM = tuple(f"{bits}/{bits}" for bits in range(2, 9))
PLAIN = ("int8", "ptq_int8")
"""Plain INT8, whose exact sums are what others are compared with: the first of them that a sweep has."""


def is_plain(series: str) -> bool:
    """Whether a series is `PLAIN`, be it of fewer bits or with a mark."""
    return series.partition(" (")[0].partition(", ")[0] in PLAIN


@dataclass(frozen=True)
class Point:
    """One experiment on an accumulator. difference, exact_difference: to the float parents, paired by seed; the latter
    with sums of 32 bits. guaranteed: in every seed, no layer can overflow on any input."""

    accumulator: Accumulator
    accuracy: Interval
    exact: Interval
    difference: Interval | None
    exact_difference: Interval | None
    guaranteed: bool
    latency: dict[str, float]
    hash: str


@dataclass(frozen=True)
class Sweep:
    """Series of points by method. labels: task, data, model. reference: what INT8 on 32 bits loses to float. hash: of
    what the runs share."""

    labels: tuple[str, str, str]
    operands: str
    metric: Metric
    series: dict[str, list[Point]]
    float_accuracy: Interval
    reference: Interval | None
    cpus: tuple[str, ...]
    hash: str

    @property
    def name(self) -> str:
        """For files: data, model, and the hash of what its runs share."""
        return f"{self.labels[1]}-{self.labels[2]}-{self.hash[:8]}"

    @property
    def title(self) -> str:
        """For legends."""
        bits = "" if self.operands in ("-", "8/8") else f", {self.operands} bits"
        return f"{self.labels[1]}, {self.labels[2]}{bits}"


def sweeps(records: Sequence[Record]) -> list[Sweep]:
    """Finished integer runs, in order of labels and hash."""
    found = [
        group for group in experiments(records) if "integer" in group[0].metrics and _accumulator(group[0]) is not None
    ]
    trainings: dict[str, set[str]] = defaultdict(set)
    for group in found:
        if at(group[0].config, "method", "fine_tune"):
            trainings[_science(group[0], trained=False)].add(_science(group[0]))
    groups: dict[str, list[list[Record]]] = defaultdict(list)
    for group in found:
        only = trainings[_science(group[0], trained=False)]  # what is not trained stands beside what is
        groups[next(iter(only)) if len(only) == 1 else _science(group[0])].append(group)
    made = [_sweep(hashlib.sha256(science.encode()).hexdigest(), group) for science, group in groups.items()]
    return sorted(made, key=lambda sweep: (sweep.labels, sweep.hash))


def _science(record: Record, trained: bool = True) -> str:
    """What runs of one sweep have in common; `trained`: with what is of fine-tuning alone."""
    found = record.science or {}
    quantization = _without(found.get("quantization"), "accumulator", "granularity")  # the label says it
    if operand_bits(record.config) in UNIFORM:  # fewer bits of all operands are another way to stay in 16-bit sums
        quantization = _without(quantization, "weight_bits", "activation_bits")
    kept = _without(found, "method") | {"quantization": quantization}
    if search := at(record.config, "method", "search"):  # other bits of the layers
        kept["search"] = search
    if not trained:
        kept |= {
            "task": _without(found.get("task"), "teacher", "temperature"),
            "schedule": _without(found.get("schedule"), "finetune"),
        }
    return json.dumps([kept, record.provenance.dataset_fingerprint], sort_keys=True)


def _without(fields: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in names} if isinstance(fields, Mapping) else {}


def _accumulator(record: Record) -> Accumulator | None:
    value = record.config.get("accumulator")
    try:
        return Accumulator.parse(value)  # type: ignore[arg-type]
    except InputError:
        return None


def _sweep(science: str, groups: list[list[Record]]) -> Sweep:
    first = groups[0][0]
    metric = first.metric_names[0]
    names = _series_names([group[0] for group in groups])
    series: dict[str, list[Point]] = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        series[name].append(_point(group, metric))
    for points in series.values():
        points.sort(key=lambda point: (point.accumulator.bits, point.accumulator.name, point.hash))
    plain = next((series[name] for name in PLAIN if name in series), None)
    return Sweep(
        labels=(label(first.config, "task"), label(first.config, "data"), label(first.config, "model")),
        operands=max(operand_bits(group[0].config) for group in groups),
        metric=metric,
        series=dict(sorted(series.items())),
        float_accuracy=float_parents(groups, metric),
        reference=plain[-1].exact_difference if plain else None,
        cpus=tuple(sorted({record.provenance.hardware.cpu for group in groups for record in group})),
        hash=science,
    )


def _point(group: Sequence[Record], metric: Metric) -> Point:
    accumulator = _accumulator(group[0])
    assert accumulator is not None
    modes = ("fast", "certified", "acc32")
    times = {mode: [r.latency_ms[mode] for r in group if mode in r.latency_ms] for mode in modes}
    return Point(
        accumulator=accumulator,
        accuracy=interval(stage_values(group, "integer", metric)),
        exact=interval(stage_values(group, "integer_int32", metric) or stage_values(group, "integer", metric)),
        difference=paired(group, "integer", group, "float", metric),
        exact_difference=paired(group, "integer_int32", group, "float", metric),
        guaranteed=all(record.layers and record.certified == len(record.layers) for record in group),
        latency={mode: interval(found).mean for mode, found in times.items() if found},
        hash=group[0].hash,
    )


def _series_names(records: Sequence[Record]) -> list[str]:
    """The method's label, with the options in which methods of that label differ; defaults go without saying.

    What counts is the science of the records: a field that is newer than a record splits no series.
    """
    bits = [operand_bits(record.config) for record in records]
    labels = [
        label(record.config, "method") + (f", {own} bits" if own != max(bits) else "")
        for record, own in zip(records, bits, strict=True)
    ]
    methods = [_flat(_without((record.science or {}).get("method"), "kind")) for record in records]
    names = []
    for own, method in zip(labels, methods, strict=True):
        alike = [m for other, m in zip(labels, methods, strict=True) if other == own]
        differing = sorted(key for key in method if any(m.get(key) != method[key] for m in alike))
        options = ", ".join(f"{key}={method[key]}" for key in differing)
        names.append(f"{own} ({options})" if options else own)
    return names


def _flat(fields: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Fields of sections by their paths."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found
