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
from oaq_repro.experiment import GRAPH_NAME
from oaq_repro.files import write_atomic
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.operand_bits import Count, operand_overflow
from oaq_repro.results.grid import csv_text
from oaq_repro.results.operand_figure import FILE_NAME, HEADS
from oaq_repro.run import Run


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
    images = Run.finished(folder, root).data.val_dataloader()
    return operand_overflow(Graph.load(folder / GRAPH_NAME), (batch.numpy() for batch, _ in islice(images, batches)))


if __name__ == "__main__":
    sys.exit(main())
