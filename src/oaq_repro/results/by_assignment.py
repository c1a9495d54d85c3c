"""What a search for bits per layer is worth: its assignment beside controls that cost the same.

The random assignments of one seed are on the same float network as the searched one, so the difference to their mean is
taken seed by seed.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.labels import at, label
from oaq_repro.results.measures import Metric, Stage
from oaq_repro.results.record import Record
from oaq_repro.results.summary import Interval, experiments, interval, percent, signed, stage_values, stem

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} of the integer network in percent:
mean over seeds ± half of the 95 % interval (Student t). *searched*: the least sensitive assignment of bits to layers
within the bound, as HAWQ-V3 finds it; *most sensitive* and *random* are controls that use the same bound up, of the
random ones the mean over all, with their range in brackets. The difference is paired over seeds; where it is not above
zero, the sensitivities have said nothing. *rank correlation* (Spearman) is that of sensitivity and accuracy over the
random assignments of a seed, mean over seeds: -1 where the less sensitive one is always better. Float: {float} %."""
HEADS = (
    "training", "bits", "bound", "all at fewest", "all at most", "searched", "most sensitive", "random",
    "searched - random", "rank correlation", "seeds", "verdict",
)  # fmt: skip
STAGE: Stage = "integer"
LEAST_RANKED = 3


@dataclass(frozen=True)
class Group:
    """Runs that differ in which of the assignments within a bound they have. control: by seed, of all random draws.

    fewest, most_bits: with the least and the largest bits everywhere.
    """

    tuned: bool
    search: Mapping[str, Any]
    best: list[Record]
    worst: list[Record]
    control: dict[int, list[Record]]
    fewest: list[Record]
    most_bits: list[Record]

    def difference(self, metric: Metric) -> Interval | None:
        """The searched assignment against the mean of the random ones, over the seeds that have both."""
        means = {seed: interval(stage_values(found, STAGE, metric)).mean for seed, found in self.control.items()}
        pairs = [(r.metrics[STAGE][metric], means[r.seed]) for r in self.best if r.seed in means]
        return interval([own - mean for own, mean in pairs]) if pairs else None

    def rank_correlation(self, metric: Metric) -> Interval | None:
        """Of sensitivity and accuracy over the random assignments of a seed, over the seeds with at least three."""
        found = []
        for runs in self.control.values():
            pairs = [(r.assignment.sensitivity, r.metrics[STAGE][metric]) for r in runs if r.assignment is not None]
            if len(pairs) >= LEAST_RANKED and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
                found.append(float(spearmanr(*zip(*pairs, strict=True)).statistic))
        return interval(found) if found else None


def assignment_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `assignments-<data>-<model>-<hash>.md` and `.csv`, where there is a search with controls."""
    by_network: dict[str, list[list[Record]]] = defaultdict(list)
    for group in experiments(records):
        if _search(group[0]) is not None and STAGE in group[0].metrics:
            by_network[_key(group[0], "method")].append(group)
    files = {}
    for key, found in by_network.items():
        groups = _groups(found)
        if groups:
            record = found[0][0]
            own = f"assignments-{stem(record, key)}"
            files[f"{own}.md"] = _grid(groups, record).markdown()
            files[f"{own}.csv"] = _csv(groups, record)
    return files


def _groups(found: Sequence[Sequence[Record]]) -> list[Group]:
    alike: dict[str, list[Sequence[Record]]] = defaultdict(list)
    for group in found:
        alike[_key(group[0], "choice", "draw", "fraction")].append(group)
    groups = []
    for members in alike.values():
        ends = {end: [r for g in members for r in g if _fraction(r) == end] for end in (0, 1)}
        for fraction in sorted({_fraction(g[0]) for g in members} - {0.0, 1.0}):
            runs = [record for group in members for record in group if _fraction(record) == fraction]
            control: dict[int, list[Record]] = defaultdict(list)
            for record in _chosen(runs, "random"):
                control[record.seed].append(record)
            best, search = _chosen(runs, "best"), _search(runs[0])
            if best and control and search is not None:
                tuned = bool(at(runs[0].config, "method", "fine_tune"))
                # at fraction 1 the least sensitive one need not use the bound up
                least, most = ends[0], _chosen(ends[1], "random")
                groups.append(Group(tuned, search, best, _chosen(runs, "most"), dict(control), least, most))
    return sorted(
        groups, key=lambda g: (g.tuned, str(g.search["constraint"]), g.search["widths"], g.search["fraction"])
    )


def _grid(groups: Sequence[Group], record: Record) -> Grid:
    metric = record.metric_names[0]
    rows = []
    for group in groups:
        found, ranked = group.difference(metric), group.rank_correlation(metric)
        drawn = [value for control in group.control.values() for value in stage_values(control, STAGE, metric)]
        means = [interval(stage_values(control, STAGE, metric)).mean for control in group.control.values()]
        spread = f" [{100 * min(drawn):.1f} to {100 * max(drawn):.1f}]"
        rows.append(
            (
                "fine-tuned" if group.tuned else "none",
                "/".join(map(str, group.search["widths"])),
                f"{group.search['constraint']} {group.search['fraction']:g}",
                *(_mean(runs, metric) for runs in (group.fewest, group.most_bits, group.best, group.worst)),
                percent(interval(means)) + spread,
                signed(found),
                "-" if ranked is None else f"{ranked.mean:+.2f}",
                str(0 if found is None else found.n),
                "-" if found is None else "above random" if found.mean > 0 else "falsified",
            )
        )
    notes = NOTES.format(metric=metric, float=_mean([r for group in groups for r in group.best], metric, "float"))
    title = f"Bits per layer: {label(record.config, 'data')}, {label(record.config, 'model')}"
    return Grid(title, notes, HEADS, "lll" + "r" * 8 + "l", tuple(rows))


def _csv(groups: Sequence[Group], record: Record) -> str:
    metric = record.metric_names[0]
    heads = ["fine_tuned", "widths", "constraint", "fraction", "choice", "draw", "seed", metric, "sensitivity", "cost"]
    lines: list[list[object]] = []
    for group in groups:
        ends = [*group.fewest, *group.most_bits]
        for run in (*ends, *group.best, *group.worst, *(r for runs in group.control.values() for r in runs)):
            search, assignment = _search(run), run.assignment
            assert search is not None and assignment is not None
            widths = "/".join(map(str, search["widths"]))
            line = [group.tuned, widths, search["constraint"], search["fraction"], search["choice"], search["draw"]]
            lines.append([*line, run.seed, run.metrics[STAGE][metric], assignment.sensitivity, assignment.cost])
    return csv_text(heads, sorted(lines, key=str))


def _chosen(runs: Sequence[Record], choice: str) -> list[Record]:
    return [record for record in runs if (_search(record) or {}).get("choice") == choice]


def _search(record: Record) -> Mapping[str, Any] | None:
    found = at(record.config, "method", "search")
    return found if isinstance(found, Mapping) else None


def _fraction(record: Record) -> float:
    return float((_search(record) or {})["fraction"])


def _key(record: Record, *without: str) -> str:
    """What runs share that differ in fields of their search, or in the method."""
    science = {key: value for key, value in (record.science or {}).items() if key not in without}
    if isinstance(method := science.get("method"), Mapping):
        search = {key: value for key, value in (_search(record) or {}).items() if key not in without}
        science["method"] = {**method, "search": search}
    return json.dumps([science, record.provenance.dataset_fingerprint], sort_keys=True)


def _mean(runs: Sequence[Record], metric: Metric, stage: Stage = STAGE) -> str:
    values = stage_values(runs, stage, metric)
    return percent(interval(values)) if values else "-"
