"""What ONNX Runtime's saturating products cost the network of a finished run on a processor without VNNI.

Writes `saturating_pairs.json` into the run's folder, from which `make_tables.py` makes a table. What is measured:
src/oaq_repro/benchmark/saturating_pairs.py.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended
from oaq_repro.files import write_atomic


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="folder of a run: results/runs/<hash>/<seed>")
    parser.add_argument("--root", type=Path, help="folder of the data, where it is no longer the run's")
    parser.add_argument("--isa", choices=("avx2", "native"), default="avx2", help="what runtimes may use of the CPU")
    options = parser.parse_args(arguments)
    return ended(lambda: _measure_all(options))


def _measure_all(options: argparse.Namespace) -> int:
    if options.isa == "avx2":
        from oaq_repro.benchmark.restrict import restrict_to_avx2

        restrict_to_avx2()
    from oaq_repro.benchmark.saturating_pairs import measure  # only now: it imports torch
    from oaq_repro.results.by_pairs import FILE_NAME

    for folder in options.run:
        found = measure(folder, options.root)
        print(write_atomic(folder / FILE_NAME, found.model_dump_json(indent=1) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
