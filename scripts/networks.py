"""Which networks run as integers, equal and how fast: records in results/networks, and docs/networks.md from them.

check: convert, lower and compare those that have no record yet (--again: all). time: time those that have no times yet.
page: write the page; --check only says whether it is what the records give. Interrupted, it goes on where it was.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended

ROOT = Path(__file__).resolve().parents[1]
RECORDS, PAGE = ROOT / "results" / "networks", ROOT / "docs" / "networks.md"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("check", "time", "page"))
    parser.add_argument("--networks", type=lambda text: text.split(","), help="names, by commas (default: all)")
    parser.add_argument("--again", action="store_true", help="those that have been checked or timed, too")
    parser.add_argument("--graphs", type=Path, default=ROOT / "build" / "networks", help="folder of integer graphs")
    parser.add_argument("--rounds", type=int, default=20, help="timed runs of every variant (default 20)")
    parser.add_argument("--isa", choices=("avx2", "native"), default="avx2", help="what runtimes may use of the CPU")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the page is not up to date")
    options = parser.parse_args(arguments)
    return ended(lambda: _step(options))


def _step(options: argparse.Namespace) -> int:
    if options.step == "page":
        from oaq_repro.benchmark.coverage.page import write_page

        return write_page(RECORDS, PAGE, options.check)
    if options.isa == "avx2":
        from oaq_repro.benchmark.restrict import restrict_to_avx2

        restrict_to_avx2()
    from oaq_repro.benchmark.coverage.running import check_all, time_all  # only now: it imports torch

    if options.step == "check":
        check_all(options.networks, RECORDS, options.graphs, options.again)
    else:
        time_all(options.networks, RECORDS, options.graphs, options.again, options.rounds, options.isa)
    return 0


if __name__ == "__main__":
    sys.exit(main())
