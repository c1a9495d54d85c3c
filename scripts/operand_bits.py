"""Count how often 16-bit sums overflow with operands of 4 to 8 bits, on the integer network of a finished run.

Writes `operand_bits.csv` into the run's folder, from which `make_tables.py` draws the figure. What is counted:
src/oaq_repro/integer/operand_bits.py.
"""

import argparse
import sys
from dataclasses import astuple
from itertools import islice
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.operand_bits import Count, operand_overflow
from oaq_repro.results.grid import csv_text
from oaq_repro.results.operand_figure import FILE_NAME, HEADS
from oaq_repro.results.record import RECORD_NAME
from oaq_repro.results.store import load_in_place
from oaq_repro.settings.schema import build

GRAPH_NAME = "graph.npz"  # as a run writes it


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run: results/runs/<hash>/<seed>")
    parser.add_argument("--batches", type=int, default=4, help="batches of held-out images (default 4)")
    parser.add_argument("--root", type=Path, help="folder of the data, where it is no longer the run's")
    options = parser.parse_args(arguments)
    return ended(lambda: _count_all(options))


def _count_all(options: argparse.Namespace) -> int:
    for folder in options.run:
        counts = count(folder, options.batches, options.root)
        print(write_atomic(folder / FILE_NAME, csv_text(HEADS, [astuple(found) for found in counts])))
    return 0


def count(folder: Path, batches: int, root: Path | None) -> list[Count]:
    """Counts on the run's own held-out images; InputError where data or graph are not at hand."""
    record = load_in_place((folder / RECORD_NAME).resolve())
    graph = Graph.load(folder / GRAPH_NAME)
    config = dict(record.config["data"])  # type: ignore[arg-type]
    data = build("data", config | ({"root": str(root)} if root else {}))
    data.prepare_data()
    data.setup()
    if data.fingerprint() != record.provenance.dataset_fingerprint:
        raise InputError(f"{folder}: found other data than the run's (fingerprint), expected the same")
    return operand_overflow(graph, (images.numpy() for images, _ in islice(data.val_dataloader(), batches)))


if __name__ == "__main__":
    sys.exit(main())
