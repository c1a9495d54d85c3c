"""What it takes to reproduce the paper: for every row of its tables the command, the data, and what is done already."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from tqdm import tqdm

from oaq_repro import signals
from oaq_repro.data.base import DataModule
from oaq_repro.data.inspection import Finding, inspect_data
from oaq_repro.errors import InputError
from oaq_repro.results.paper import Cell, PaperTable
from oaq_repro.results.paper_tables import ours
from oaq_repro.results.record import Record
from oaq_repro.results.store import find_record, list_records
from oaq_repro.results.summary import experiments, percent
from oaq_repro.settings.composing import config_folder, resolve
from oaq_repro.settings.identity import run_hash
from oaq_repro.settings.schema import build, read
from oaq_repro.settings.sections import RunSettings, Section


@dataclass(frozen=True)
class PaperData:
    """What a row trains on. fingerprint: None where it cannot be trained on; findings: what to say of it."""

    root: str
    fingerprint: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class PaperRow:
    """One row of a table that runs of ours answer. finished: of `seeds`; ours: as the paper's table will have it."""

    cell: Cell
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    finished: tuple[int, ...]
    ours: str
    data: PaperData

    @property
    def state(self) -> str:
        """In a few words."""
        if self.seeds == self.finished:
            return "finished" if self.ours != "-" else "finished, but not as the paper's table asks"
        done = f"{len(self.finished)} of {len(self.seeds)} seeds finished, the others " if self.finished else ""
        return done + ("can be run" if self.data.fingerprint else "cannot be run: data")

    def command(self, seed: int) -> list[str]:
        """The run of one seed, as a command line."""
        return ["python", "-m", "oaq_repro", *self.overrides, f"seed={seed}"]


@dataclass(frozen=True)
class Reproduction:
    """One table of the paper, and its rows."""

    table: PaperTable
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class Request:
    """roots: folders of data sets by their names in conf/data. overrides: for all runs. results: of their records.

    tables: their names, none: all.
    """

    tables: Sequence[str] = ()
    roots: Mapping[str, str] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    overrides: Sequence[str] = ()
    results: str | None = None


def survey(tables: Sequence[PaperTable], request: Request) -> list[Reproduction]:
    """Look what is there for every row; reads lists and annotations, no pixels, and downloads nothing.

    InputError for an unknown data set among the roots, and for overrides that the rows do not have or that are theirs.
    """
    known = {table.data for table in tables if table.data}
    if unknown := sorted(set(request.roots) - known):
        raise InputError(f"--root: found {unknown[0]}, expected one of {', '.join(sorted(known))}")
    if any(override.partition("=")[0] == "seed" for override in request.overrides):
        raise InputError("seed: found among the overrides, expected --seeds 0,1,2")
    data_of, runs_of = cache(_data), cache(_runs)  # rows share both
    found = []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        wanted = [table for table in tables if not request.tables or table.name in request.tables]
        for table in tqdm(wanted, "reading the data", leave=False, disable=None):
            rows = [_row(table, cell, request, data_of, runs_of) for cell in table.cells if cell.preset]
            found.append(Reproduction(table, tuple(rows)))
    return found


def _row(
    table: PaperTable,
    cell: Cell,
    request: Request,
    data_of: Callable[[Section, bool], PaperData],
    runs_of: Callable[[str], list[list[Record]]],
) -> PaperRow:
    given = [f"data.root={request.roots[table.data]}"] if table.data in request.roots else []  # type: ignore[index]
    given += [f"results={request.results}"] if request.results is not None else []
    overrides = (f"+experiment=paper/{cell.preset}", *cell.overrides, *given, *request.overrides)
    settings = read(resolve(compose("config", list(overrides))))
    data = data_of(settings.data, settings.schedule.float is not None or settings.schedule.finetune is not None)
    finished = tuple(seed for seed in request.seeds if _finished(settings, seed, data))
    values = [percent(row.stages[table.stage]) for row in ours(table, cell, runs_of(settings.results)) if row]
    return PaperRow(cell, overrides, tuple(request.seeds), finished, ", ".join(values) or "-", data)


def _data(settings: Section, trained: bool) -> PaperData:
    """What there is of the data that these settings name. trained: whether they are to be trained on."""
    data: DataModule = build("data", settings)
    findings = [finding for finding in inspect_data(data, load=False).findings if finding.state != "ok"]
    if trained and not data.trains:
        text = f"{data.root}: found no folder train, expected one with the images to train on"
        findings = [Finding("missing", text)]
    usable = not any(finding.state in ("missing", "broken") for finding in findings)
    return PaperData(str(data.root), data.fingerprint() if usable else None, tuple(findings))


def _runs(results: str) -> list[list[Record]]:
    """Finished runs by experiment; records that cannot be read are none (`make_tables.py` names them)."""
    return experiments(list_records(results).records) if Path(results).is_dir() else []


def _finished(settings: RunSettings, seed: int, data: PaperData) -> bool:
    if data.fingerprint is None:
        return False
    record = find_record(settings.results, run_hash(settings, data.fingerprint), seed)
    return record is not None and record.status == "finished"


def run_all(found: Sequence[Reproduction]) -> list[str]:
    """Make the runs that are not finished and whose data are there, one after another; one line per failure.

    Each is a process of its own, which is told of what stops this one and ends first.
    """
    open_runs = [
        (reproduction.table, row, seed)
        for reproduction in found
        for row in reproduction.rows
        for seed in row.seeds
        if row.data.fingerprint and seed not in row.finished
    ]
    failures = []
    for number, (table, row, seed) in enumerate(open_runs, start=1):
        command = row.command(seed)
        print(f"\n[{number} of {len(open_runs)}] {table.title}; row {row.cell.row}\n{shlex.join(command)}", flush=True)
        status = _call([sys.executable, *command[1:]])
        if status:
            failures.append(f"{shlex.join(command)}: exit status {status}")
    return failures


def _call(command: Sequence[str]) -> int:
    """Exit status of a process."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except signals.Interrupted as stopped:
            signals.arrived()
            process.send_signal(stopped.number)  # a terminal's Ctrl-C it has already: a second one at once is ignored
            process.wait()
            raise
