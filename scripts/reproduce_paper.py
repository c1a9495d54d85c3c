"""Reproduce the paper: python scripts/reproduce_paper.py [--run] [--root imagenet=/data/imagenet] [override ...].

Prints for every row of the paper's tables (results/paper) the command that makes it, which data it needs and what is
missing. With --run it makes all rows that can be made and are not finished; the same command goes on where it was
stopped. Overrides hold for all runs, for example trainer.devices=4 trainer.strategy=ddp.
"""

import sys

from oaq_repro import signals
from oaq_repro.extras import require

if __name__ == "__main__":
    signals.install(quiet=True)  # before the imports below, which take a while; the run that is stopped says so
require("train")

import argparse
import shlex
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from oaq_repro.command_line import ended
from oaq_repro.hints import quiet
from oaq_repro.reproduction import PaperRow, Reproduction, Request, run_all, survey
from oaq_repro.results.paper import PaperTable, load_tables

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status: 1 for a run that failed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only say what would be run (the default)")
    how.add_argument("--run", action="store_true", help="run what can be run")
    parser.add_argument("--root", action="append", default=[], metavar="NAME=FOLDER", type=_root,
                        help="where the data are: imagenet=..., voc_detection=..., coco_segmentation=...")  # fmt: skip
    names = sorted(path.stem for path in RESULTS.glob("paper/*.yaml"))
    parser.add_argument("--table", action="append", default=[], choices=names, metavar="NAME",
                        help=f"one of {', '.join(names)}; may be given several times (default: all)")  # fmt: skip
    parser.add_argument("--seeds", default="0", type=_seeds, help="0,1,2: three runs for each row (default: 0)")
    parser.add_argument("--results", help="folder of the records (default: results in the working folder)")
    parser.add_argument("override", nargs="*", help="of all runs, as for python -m oaq_repro")
    options = parser.parse_intermixed_args(arguments)
    quiet()
    return ended(lambda: _reproduce(options), HydraException, OmegaConfBaseException)


def _reproduce(options: argparse.Namespace) -> int:
    request = Request(options.table, dict(options.root), options.seeds, options.override, options.results)
    found = survey(load_tables(RESULTS), request)
    for reproduction in found:
        print("\n".join(describe(reproduction)), end="\n\n")
    print(summary(found))
    failures = run_all(found) if options.run else []
    if options.run:
        print("\npython scripts/make_tables.py writes the paper's tables with these runs")
    if failures:
        print(f"{len(failures)} runs failed:", *failures, sep="\n  ", file=sys.stderr)
    return 1 if failures else 0


def describe(reproduction: Reproduction) -> list[str]:
    """The lines on one table."""
    table, rows = reproduction.table, reproduction.rows
    lines = [f"{table.title} ({table.name})"]
    if not rows:
        return [*lines, f"  {len(table.cells)} numbers that no run of ours answers: {table.unanswered}"]
    lines += _data(table, rows)
    width = max(len(row.cell.row) for row in rows)
    lines.append(f"  {'row':{width}}  {'paper (%)':>9}  {'ours (%)':>13}  state")
    for row in rows:
        paper = "unknown" if row.cell.value is None else f"{row.cell.value:.2f}"
        lines.append(f"  {row.cell.row:{width}}  {paper:>9}  {row.ours:>13}  {row.state}")
        lines += [f"    {shlex.join(row.command(seed))}" for seed in row.seeds if seed not in row.finished]
    return lines


def _data(table: PaperTable, rows: tuple[PaperRow, ...]) -> list[str]:
    lines = []
    for data in dict.fromkeys(row.data for row in rows):
        worst = next((finding.state for finding in data.findings if finding.state in ("missing", "broken")), "there")
        lines.append(f"  data: {table.data} in {data.root}: {worst}")
        lines += [f"    {finding.state}: {finding.text}" for finding in data.findings]
        if not data.fingerprint:
            lines.append(f"    how to get them: docs/data.md; --root {table.data}=FOLDER if they are elsewhere")
        elif any(finding.state == "differs" for finding in data.findings):
            lines.append("    not the whole benchmark: its numbers stand in no table of the paper")
    return lines


def summary(found: list[Reproduction]) -> str:
    """One line on all of them."""
    rows = [row for reproduction in found for row in reproduction.rows]
    finished = sum(row.seeds == row.finished for row in rows)
    ready = [row for row in rows if row.data.fingerprint and row.seeds != row.finished]
    runs = sum(len(row.seeds) - len(row.finished) for row in ready)
    text = (
        f"{len(rows)} rows: {finished} finished, {len(ready)} can be run, {len(rows) - finished - len(ready)} lack data"
    )
    if not ready:
        return text
    return f"{text}.\n--run makes {runs} runs; what each costs stands in its preset, conf/experiment/paper/"


def _root(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=FOLDER such as imagenet=/data/imagenet")
    return name, folder


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected different numbers such as 0,1,2")
    return tuple(map(int, parts))


if __name__ == "__main__":
    sys.exit(main())
