"""Make `results/tables` and `results/figures` from the run records and the published numbers (`results/paper`).

Unreadable records are listed on standard error; everything is made from the others and the exit status is 1. With
--check nothing is written: the records that git tracks are compared with the files that stand there. Texts have to be
equal to the byte, SVGs too where matplotlib has the version that made them; of PNGs only the presence is checked.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended
from oaq_repro.results.output import differences, make, write
from oaq_repro.results.paper import PaperTable
from oaq_repro.results.paper_tables import Costs

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with runs/<hash>/<seed>/record.json")
    parser.add_argument("--out", type=Path, help="folder for tables/ and figures/ (default: that of --results)")
    parser.add_argument("--check", action="store_true", help="exit with 1 and name the files that are not up to date")
    options = parser.parse_args(arguments)
    return ended(lambda: _make(options.results, options.out or options.results, options.check))


def _make(results: Path, out: Path, check: bool) -> int:
    output = make(results, _costs, tracked_only=check)
    stale = differences(output, out) if check else []
    if not check:
        print("\n".join(map(str, write(output, out))))
    else:
        print("\n".join(stale) if stale else f"{len(output.files)} files are up to date")
    if output.problems:
        print(f"{len(output.problems)} records could not be read and are not in the tables:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in output.problems), file=sys.stderr)
    return 1 if stale or output.problems else 0


def _costs(tables: Sequence[PaperTable]) -> Mapping[str, Costs]:
    from oaq_repro.paper_costs import paper_costs  # torch takes seconds, which other tables need not wait for

    return paper_costs(tables)


if __name__ == "__main__":
    sys.exit(main())
