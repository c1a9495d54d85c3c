"""Precision per frame: the policy beside its controls, the networks of all widths, and which frames got which.

Differences are paired over seeds: a seed's rows are computed from the same frames by the same networks.
"""

import math
from collections.abc import Callable, Sequence

from oaq_repro.results.frame_sections import FrameChoice, FramePrecision, WidthGraph
from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.labels import label, name
from oaq_repro.results.measures import Metric, Stage
from oaq_repro.results.record import Record
from oaq_repro.results.summary import Interval, experiments, interval, percent, signed

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. Held-out clips on the integer engine: mean over
{seeds} seeds ± half of the 95 % interval (Student t), in percent. *policy*: every frame at the precision that the
policy chose, or skipped. *all at*: no policy. *shuffled*: the policy's choices in random places. *skips, else*: the
policy's skips, all other frames at one precision. *line*: the straight line between neighbouring points of these, at
the policy's cost: what choosing precisions, not skips, has to beat. *oracle*: the best map from kinds of frames to
precisions that costs at most what the policy does, found on these very clips, so a bound and no result. *policy - this*
is paired over seeds; an interval that holds zero shows nothing. *cost* is by the source's rule, min(bits, 8)² / 64 a
frame, in which float counts as 8 bits; 1: all frames at 8 bits. *bit operations* are counted by layer, with 8 bits in
the first and last, and 32 in the policy, which is float. *ms*: measured, engine and policy on one thread. Costs are per
frame, the policy's own included. Float network, all frames: {float} %."""
WIDTH_NOTES = """\
All frames at one width; *stage 1*: the float network with this width's weights, batch norm and clips. *certified*:
layers whose sums no input can overflow; *longest block*: of products that no input can overflow, the shortest of the
layers on the run's accumulator."""
KIND_NOTES = "Parts of the frames of a kind by what the policy chose, in percent, mean over seeds."


def precision_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `video-<data>-<model>-<hash>.md` and `.csv`, one for every experiment."""
    files: dict[str, str] = {}
    for group in experiments(records):
        found = [(r, r.frame_precision) for r in group if r.frame_precision is not None]
        if not found:
            continue
        own = [record for record, _ in found]
        config = own[0].config
        stem = f"video-{name(config, 'data')}-{name(config, 'model')}-{own[0].hash[:8]}"
        grids = [choice_grid(own), width_grid(own), *([kind_grid(own)] if found[0][1].by_kind else [])]
        files |= {f"{stem}.md": "\n#".join(grid.markdown() for grid in grids), f"{stem}.csv": _csv(own)}
    return files


def title_of(record: Record) -> str:
    """Data, network and method of a run, in words."""
    data = record.config.get("data")
    hard = data.get("hard") if isinstance(data, dict) else None
    kind = "" if hard is None else f" ({hard})"
    return f"{label(record.config, 'data')}{kind}, {label(record.config, 'model')}, {label(record.config, 'method')}"


def choice_label(row: FrameChoice) -> str:
    """A row's name in tables."""
    names = {"uniform": f"all at {row.bits} bits", "skip_only": f"skips, else {row.bits} bits"}
    return names.get(row.choice, row.choice)


def precision_of(record: Record) -> FramePrecision:
    """The section of a record that has it."""
    assert record.frame_precision is not None
    return record.frame_precision


def rows_of(group: Sequence[Record]) -> list[list[FrameChoice]]:
    """The same row of all seeds, row by row."""
    return [list(rows) for rows in zip(*(precision_of(record).choices for record in group), strict=True)]


def metric_of(group: Sequence[Record]) -> list[Metric]:
    """Metrics of the rows."""
    return [m for m in ("clip_top1", "clip_map") if m in precision_of(group[0]).choices[0].metrics]


def accuracy(rows: Sequence[FrameChoice], metric: Metric) -> Interval:
    """Over seeds."""
    return interval([row.metrics[metric] for row in rows])


def policy_minus(group: Sequence[Record], rows: Sequence[FrameChoice], metric: Metric) -> Interval:
    """The policy's metric minus that of a row, paired over seeds."""
    policies = rows_of(group)[0]
    return interval([p.metrics[metric] - row.metrics[metric] for p, row in zip(policies, rows, strict=True)])


def choice_grid(group: Sequence[Record]) -> Grid:
    """The policy and its controls."""
    metrics, widths = metric_of(group), [w.bits for w in precision_of(group[0]).widths]
    parts = [*(f"{bits} bits (%)" for bits in widths), "skipped (%)"]
    heads = ("choice", *metrics, "policy - this", "cost", "products", "bit operations (M)", "ms", *parts)
    lines = []
    for rows in rows_of(group):
        difference = "-" if rows[0].choice == "policy" else signed(policy_minus(group, rows, metrics[0]))
        cells = [choice_label(rows[0]), *(percent(accuracy(rows, m)) for m in metrics), difference]
        cells += [f"{_mean(rows, lambda r: r.cost):.3f}", f"{_mean(rows, lambda r: r.macs):,.0f}"]
        cells += [f"{_mean(rows, lambda r: r.bops) / 1e6:,.2f}", _milliseconds(rows)]
        cells += [_part(rows, bits) for bits in (*widths, 0)]
        lines.append(tuple(cells))
    floats = interval([record.metrics["float"][metrics[0]] for record in group])
    notes = NOTES.format(seeds=len(group), float=percent(floats))
    return Grid(f"Precision per frame: {title_of(group[0])}", notes, heads, "l" + "r" * (len(heads) - 1), tuple(lines))


def width_grid(group: Sequence[Record]) -> Grid:
    """The networks of all widths."""
    metric = metric_of(group)[0]
    stages: tuple[tuple[Stage, str], ...] = (("soft", "stage 1"), ("simulated", "simulated"), ("integer", "integer"))
    heads = (
        "bits",
        *(head for _, head in stages),
        "certified",
        "longest block",
        "overflow seen: frames",
        "weights (bytes)",
    )
    lines = []
    for graphs in zip(*(precision_of(record).widths for record in group), strict=True):
        values = [percent(interval([g.metrics[stage][metric] for g in graphs])) for stage, _ in stages]
        lines.append((str(graphs[0].bits), *values, *_safety(graphs), f"{graphs[0].cost.weight_bytes:,.0f}"))
    accumulator = label(group[0].config, "accumulator")
    title = f"Networks of all widths, {metric}, {accumulator}"
    return Grid(title, WIDTH_NOTES, heads, "lrrrlrrr", tuple(lines))


def kind_grid(group: Sequence[Record]) -> Grid:
    """Which frames got which precision."""
    widths = [w.bits for w in precision_of(group[0]).widths]
    heads = ("frames", *(f"{bits} bits" for bits in widths), "skipped")
    lines = []
    for kind in precision_of(group[0]).by_kind:
        counts = [precision_of(record).by_kind[kind] for record in group]
        shares = [interval([c[bits] / max(1, sum(c.values())) for c in counts]) for bits in (*widths, 0)]
        lines.append((kind, *map(percent, shares)))
    return Grid("Which frames got which precision", KIND_NOTES, heads, "l" + "r" * len(heads[1:]), tuple(lines))


def shortest_block(graph: WidthGraph) -> int:
    """Of the longest certified blocks of layers on the run's accumulator; of all layers where none is."""
    own = [layer for layer in graph.layers if layer.reason is None] or graph.layers
    return min(layer.longest_block or 0 for layer in own)


def _safety(graphs: Sequence[WidthGraph]) -> tuple[str, str, str]:
    counts = sorted({graph.certified for graph in graphs})
    certified = "-".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    block = min(shortest_block(graph) for graph in graphs)
    affected = sum(graph.overflow.images_affected for graph in graphs)
    images = sum(graph.overflow.images for graph in graphs)
    return f"{certified} of {len(graphs[0].layers)}", str(block), f"{affected:,} of {images:,}"


def _mean(rows: Sequence[FrameChoice], value: Callable[[FrameChoice], float]) -> float:
    return math.fsum(value(row) for row in rows) / len(rows)


def _milliseconds(rows: Sequence[FrameChoice]) -> str:
    times = [row.ms for row in rows if row.ms is not None]
    return f"{math.fsum(times) / len(times):.3f}" if times else "-"


def _part(rows: Sequence[FrameChoice], bits: int) -> str:
    return f"{100 * _mean(rows, lambda row: row.frames[bits]):.1f}" if rows[0].frames else "-"


def _csv(group: Sequence[Record]) -> str:
    metrics, widths = metric_of(group), [w.bits for w in precision_of(group[0]).widths]
    values = [head for m in metrics for head in (m, f"{m}_half_95", f"policy_minus_{m}", f"policy_minus_{m}_half_95")]
    heads = [
        "run",
        "choice",
        "bits",
        "seeds",
        *values,
        "cost",
        "macs",
        "bops",
        "ms",
        *(f"part_{b}" for b in (*widths, 0)),
    ]
    lines = []
    for rows in rows_of(group):
        found = [x for m in metrics for x in (accuracy(rows, m), policy_minus(group, rows, m))]
        numbers = [v for x in found for v in (x.mean, x.half)]
        costs = [_mean(rows, lambda r: r.cost), _mean(rows, lambda r: r.macs), _mean(rows, lambda r: r.bops)]
        times = [row.ms for row in rows if row.ms is not None]
        ms = math.fsum(times) / len(times) if times else None
        parts = [_mean(rows, lambda r, b=b: r.frames[b]) if rows[0].frames else None for b in (*widths, 0)]  # type: ignore[misc]
        lines.append([group[0].hash, rows[0].choice, rows[0].bits, len(rows), *numbers, *costs, ms, *parts])
    return csv_text(heads, lines)
