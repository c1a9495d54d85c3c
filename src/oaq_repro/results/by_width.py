"""What each method loses at each accumulator: one small table per sweep, differences to float paired over seeds."""

from collections.abc import Sequence

from oaq_repro.results.grid import Grid, csv_text
from oaq_repro.results.measures import Stage
from oaq_repro.results.record import Record
from oaq_repro.results.summary import experiments, images_affected, interval, percent, signed, stage_values
from oaq_repro.results.sweep import Point, Sweep, is_plain, sweeps

NOTES = """\
Generated from the run records by `scripts/make_tables.py`; do not edit. {metric} of the integer network on the row's
accumulator minus that of its float parent, in points: mean over {seeds} ± half of the 95 % interval (Student t) of the
paired differences. In brackets the held-out images in which a sum overflows, all seeds together; `certified`: none can,
on any input. `{exact}` is plain INT8 with exact sums. {agreement}Float: {float} %."""
AGREEMENT = "After the semicolon: images whose first place is the float network's, in %. "
EXACT = "32-bit sums"


def width_files(records: Sequence[Record]) -> dict[str, str]:
    """File name to text of `widths-<sweep>.md` and `.csv`, for sweeps over several methods and accumulators.

    Plain INT8 has exact sums beside those of its accumulator: two by itself.
    """
    by_hash = {group[0].hash: group for group in experiments(records)}
    files = {}
    for sweep in sweeps(records):
        accumulators = {p.accumulator for points in sweep.series.values() for p in points}
        if len(sweep.series) > 1 and (len(accumulators) > 1 or any(map(is_plain, sweep.series))):
            files[f"widths-{sweep.name}.md"] = _grid(sweep, by_hash).markdown()
            files[f"widths-{sweep.name}.csv"] = _csv(sweep, by_hash)
    return files


def _grid(sweep: Sweep, by_hash: dict[str, list[Record]]) -> Grid:
    columns = sorted({(p.accumulator.bits, p.accumulator.name) for points in sweep.series.values() for p in points})
    rows = []
    for name, points in sweep.series.items():
        at = {point.accumulator.name: point for point in points}
        cells = [_cell(by_hash[at[column].hash], at[column]) if column in at else "" for _, column in columns]
        rows.append((name, _exact(by_hash, points[-1]) if is_plain(name) else "", *cells))
    groups = [by_hash[point.hash] for points in sweep.series.values() for point in points]
    seeds = sorted({len(group) for group in groups})
    agrees = any("agreement" in record.metrics["integer"] for group in groups for record in group)
    notes = NOTES.format(
        metric=sweep.metric,
        seeds=f"{'-'.join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))} seeds",
        exact=EXACT,
        agreement=AGREEMENT if agrees else "",
        float=percent(sweep.float_accuracy),
    )
    heads = ("method", EXACT, *(name for _, name in columns))
    return Grid(f"What is lost by width: {sweep.title}", notes, heads, "l" + "r" * (len(heads) - 1), tuple(rows))


def _cell(group: Sequence[Record], point: Point) -> str:
    seen = "certified" if point.guaranteed else images_affected(group)
    return f"{signed(point.difference)} [{seen}]{_agreement(group, 'integer')}"


def _exact(by_hash: dict[str, list[Record]], point: Point) -> str:
    return f"{signed(point.exact_difference)}{_agreement(by_hash[point.hash], 'integer_int32')}"


def _agreement(group: Sequence[Record], stage: Stage) -> str:
    found = stage_values(group, stage, "agreement")
    return f"; {100 * interval(found).mean:.1f}" if found else ""


def _csv(sweep: Sweep, by_hash: dict[str, list[Record]]) -> str:
    heads = ["method", "accumulator", "bits", "seeds", "difference", "half_95", "difference_int32", "half_95_int32"]
    heads += ["agreement", "images_affected", "images", "certified", "run"]
    lines = []
    for name, points in sweep.series.items():
        for point in points:
            group = by_hash[point.hash]
            line: list[object] = [name, point.accumulator.name, point.accumulator.bits, len(group)]
            for found in (point.difference, point.exact_difference):
                line += [None, None] if found is None else [found.mean, found.half]
            agreement = stage_values(group, "integer", "agreement")
            overflows = [record.overflow for record in group if record.overflow is not None]
            line += [interval(agreement).mean if agreement else None]
            line += [sum(o.images_affected for o in overflows), sum(o.images for o in overflows)]
            lines.append([*line, point.guaranteed, point.hash])
    return csv_text(heads, lines)
