"""Make the comparison tables from all run records: Markdown and CSV.

Unreadable records are listed on standard error; the tables are written from the others and the exit
status is 1.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.errors import InputError
from oaq_repro.results.store import list_records
from oaq_repro.results.tables import write_tables

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with runs/<hash>/<seed>/record.json")
    parser.add_argument("--out", type=Path, help="folder for the tables (default: <results>/tables)")
    options = parser.parse_args(arguments)
    try:
        listing = list_records(options.results)
        for path in write_tables(listing.records, options.out or options.results / "tables"):
            print(path)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    if listing.problems:
        print(f"{len(listing.problems)} records could not be read and are not in the tables:", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in listing.problems), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
