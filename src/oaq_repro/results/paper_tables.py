"""Tables "paper | ours | difference | verdict": published numbers beside the runs that answer them.

A run answers a cell only where its data are the paper's, whole: the class of the data, all held-out images, no subset.
So a number from embedded or made-up data cannot stand here. Where several experiments answer one cell (other schedules,
say), each has its line.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from oaq_repro.results import grid
from oaq_repro.results.grid import Grid
from oaq_repro.results.labels import label, name
from oaq_repro.results.measures import USUAL_STAGES, Stage
from oaq_repro.results.paper import GROUPS, Cell, PaperTable
from oaq_repro.results.record import Record
from oaq_repro.results.summary import RATIOS, Interval, Row, certified, experiments, percent, ratio, seen, summarize
from oaq_repro.results.tables import RATIO_HEADS

Verdict = Literal["match", "within noise", "differs", "not run", "cannot run: data", "-"]
NOTES = """\
Generated from `results/paper/{name}.yaml` and the run records by `scripts/make_tables.py`; do not edit. Source of the
published numbers: {source}. {words}"""
ACCURACY = """\
Ours: mean over n seeds ± half of the 95 % interval (Student t), in percent, {stage}.
Verdicts: *match*, at most {tolerance:g} points from the paper's number; *within noise*, farther, but the number is in
our interval; *differs*; *not run*; *cannot run: data*. Runs on other data than all {images:,} held-out images of
{dataset} are never shown here."""
OURS = ("float (%)", "simulated (%)", "integer int32 (%)", "overflow seen: outputs", "overflow seen: images")
MEASURED: dict[Stage, str] = {
    "float": "the float parent",
    "soft": "the float network as it is trained before folding",
    "hard": "the float network with the weights that are then quantized",
    "simulated": "the simulated network",
    "integer_int32": "the integer network on 32 bits",
    "integer": "the integer network on its accumulator",
}
HEADS = ("row", "column", "paper (%)", "status", "ours (%)", "n", "difference", "verdict", *OURS)
DASHES = len(OURS) + 1 + len(RATIO_HEADS)


COST = """\
Ours: what these bits cost by `quant/mixed_precision/cost.py`, on 224x224 images; no run is needed. Megabytes are 2^20
bytes of weights, packed, without biases; GBOPs are 10^9 bit operations as the source counts them, products times both
bits. *match*: at most {tolerance:g} % from the paper's number, or equal as it is rounded there."""
Costs = Mapping[tuple[str, str], float]
"""By row and column of a table."""


def answers(record: Record, table: PaperTable, cell: Cell) -> bool:
    """Whether a finished run is on the paper's data, all of them, and is what the cell's overrides say."""
    data = record.config.get("data")
    if record.provenance.dataset != table.dataset or not isinstance(data, Mapping):
        return False
    if data.get("subset") is not None or data.get("val_subset") is not None:
        return False
    if record.held_out != table.images:
        return False
    return all(_holds(record.config, override) for override in cell.run)


def verdict(table: PaperTable, cell: Cell, ours: Interval | None) -> Verdict:
    """What a comparison says (NOTES); "-" where the paper's cell is empty and there is a run."""
    if ours is None:
        return "cannot run: data" if table.blocked else "not run"
    if cell.value is None or table.tolerance is None:
        return "-"
    off = round(abs(100 * ours.mean - cell.value), 9)  # 70.97 - 70.87 is a tenth
    if off <= table.tolerance:
        return "match"
    return "within noise" if ours.half is not None and off <= 100 * ours.half else "differs"


def paper_files(
    tables: Sequence[PaperTable], records: Sequence[Record], costs: Mapping[str, Costs] = {}
) -> dict[str, str]:
    """File name to text of every published table, as Markdown, CSV and LaTeX. costs: by name, of those of that kind."""
    groups = experiments(records)
    files: dict[str, str] = {}
    for table in tables:
        if table.kind == "cost":
            found = cost_grid(table, costs[table.name])
            texts = {"md": found.markdown(), "csv": _cost_csv(table, costs[table.name]), "tex": found.latex()}
            files |= {f"paper_{table.name}.{suffix}": text for suffix, text in texts.items()}
            continue
        lines = [(cell, row) for cell in table.cells for row in ours(table, cell, groups)]
        made = _accuracy(table, lines) if table.kind == "accuracy" else _plain(table)
        name = f"paper_{table.name}"
        files |= {f"{name}.md": made.markdown(), f"{name}.csv": _csv(table, lines), f"{name}.tex": made.latex()}
    return files


def ours(table: PaperTable, cell: Cell, groups: Sequence[Sequence[Record]]) -> Sequence[Row | None]:
    """Experiments that answer a cell; one None where none does."""
    if not cell.run or table.metric is None:
        return [None]
    metric = table.metric
    found = [[record for record in group if answers(record, table, cell)] for group in groups]
    rows = [summarize(group, metric) for group in found if group]
    return [row for row in rows if table.stage in row.stages] or [None]


def _accuracy(table: PaperTable, lines: Sequence[tuple[Cell, Row | None]]) -> Grid:
    words = ACCURACY.format(
        stage=MEASURED[table.stage], tolerance=table.tolerance, images=table.images, dataset=table.dataset
    )
    if table.blocked:
        words += f" Without a run: {table.blocked}."
    rows = []
    for cell, row in lines:
        ours = row.stages[table.stage] if row else None
        off = 100 * ours.mean - cell.value if ours and cell.value is not None else None
        cells = [cell.row, cell.column, _paper(cell), cell.status or "-", percent(ours), str(ours.n) if ours else "0"]
        cells += ["-" if off is None else f"{off:+.2f}", verdict(table, cell, ours)]
        if row is None:
            cells += ["-"] * DASHES
        else:
            cells += [percent(row.stages.get(stage)) for stage in USUAL_STAGES[:3]]
            cells += [*seen(row), certified(row), *(ratio(row, mode) for mode in RATIOS)]
        rows.append((*cells, row.hash[:8] if row else "-", " ".join(cell.run)))
    heads = (*HEADS, "layers certified", *RATIO_HEADS, "run", "overrides")
    return Grid(table.title, _notes(table, words), heads, "llrlrrrl" + "r" * DASHES + "ll", tuple(rows))


def _plain(table: PaperTable) -> Grid:
    """Latency and speed: nothing of ours stands beside them."""
    unit = "ms" if table.kind == "latency" else "ratio"
    base = {cell.row: cell.value for cell in table.cells if cell.column == table.baseline}
    rows = []
    for cell in table.cells:
        own, reference = cell.value, base.get(cell.row)
        relative = [f"{own / reference:.2f}" if own and reference else "-"] if table.baseline else []
        rows.append((cell.row, cell.column, _paper(cell), *relative, cell.status or "-", "-", "-", "not run"))
    over = [f"paper: time / {table.baseline}"] if table.baseline else []
    heads = ("row", "column", f"paper ({unit})", *over, "status", "ours", "difference", "verdict")
    words = f"Not run: {table.unanswered}."
    return Grid(table.title, _notes(table, words), heads, "llr" + "r" * len(over) + "lrrl", tuple(rows))


def cost_grid(table: PaperTable, computed: Costs) -> Grid:
    """Published costs beside those that are computed."""
    rows = []
    for cell in table.cells:
        own, paper = computed[cell.row, cell.column], "-" if cell.value is None else f"{cell.value:g}"
        off = "-" if cell.value is None else f"{100 * (own / cell.value - 1):+.1f} %"
        rows.append(
            (cell.row, cell.column, paper, cell.status or "-", f"{own:.1f}", off, _cost_verdict(table, cell, own))
        )
    heads = ("row", "column", "paper", "status", "ours", "difference", "verdict")
    return Grid(table.title, _notes(table, COST.format(tolerance=table.tolerance)), heads, "llrlrrl", tuple(rows))


def _cost_verdict(table: PaperTable, cell: Cell, own: float) -> Verdict:
    if cell.value is None or table.tolerance is None:
        return "-"
    digits = len(f"{cell.value:g}".partition(".")[2])
    return (
        "match" if abs(own / cell.value - 1) <= table.tolerance / 100 or round(own, digits) == cell.value else "differs"
    )


def _cost_csv(table: PaperTable, computed: Costs) -> str:
    heads = ["row", "column", "kind", "paper", "status", "reason", "ours", "verdict"]
    rows = [
        [*published(table, cell), own, _cost_verdict(table, cell, own)]
        for cell in table.cells
        for own in [computed[cell.row, cell.column]]
    ]
    return grid.csv_text(heads, rows)


def published(table: PaperTable, cell: Cell) -> list[Any]:
    """What a CSV says of the paper's side of a cell."""
    return [cell.row, cell.column, table.kind, cell.value, cell.status, cell.reason]


def _csv(table: PaperTable, lines: Sequence[tuple[Cell, Row | None]]) -> str:
    heads = [
        "row",
        "column",
        "kind",
        "paper",
        "status",
        "reason",
        "ours",
        "half_95",
        "n",
        "difference",
        "verdict",
        "run",
    ]
    rows: list[list[Any]] = []
    for cell, row in lines:
        ours = row.stages[table.stage] if row else None
        mean = 100 * ours.mean if ours else None
        half = 100 * ours.half if ours and ours.half is not None else None
        off = mean - cell.value if mean is not None and cell.value is not None else None
        said = verdict(table, cell, ours)
        rows.append([*published(table, cell), mean, half, ours.n if ours else 0, off, said, row.hash if row else None])
    return grid.csv_text(heads, rows)


def _notes(table: PaperTable, words: str) -> str:
    reasons = dict.fromkeys(cell.reason for cell in table.cells if cell.reason)
    empty = f" Empty cells: {'; '.join(str(reason) for reason in reasons)}." if reasons else ""
    text = NOTES.format(name=table.name, source=table.source, words=words + empty)
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _paper(cell: Cell) -> str:
    return "-" if cell.value is None else f"{cell.value:.2f}"


def _holds(config: Mapping[str, Any], override: str) -> bool:
    """Whether a configuration is what `section=name` or `a.b.c=value` asks for."""
    key, _, text = override.partition("=")
    if key in GROUPS:
        return (label if key == "accumulator" else name)(config, key) == text  # its label is made of its fields
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return bool(found == yaml.safe_load(text))
