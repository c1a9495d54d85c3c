"""Bring the records of earlier versions up to date: python scripts/rekey.py [--results FOLDER].

Their settings are rewritten in today's form (`oaq_repro.settings.earlier`), and the folders of runs move to the hashes
of these; the float parents that they were made from move along. Nothing else in a record changes. What is up to date
stays as it is, so the script may be run again, also after it was interrupted. Exit status 1 where a record was left.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.settings.rekeying import rekey

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with runs/<hash>/<seed>/record.json")
    options = parser.parse_args(arguments)
    done = rekey(options.results)
    for line in done.moved:
        print(line)
    print(f"{len(done.moved)} runs rewritten, {done.current} were up to date, {len(done.left)} left as they are")
    for line in done.left:
        print(f"left: {line}", file=sys.stderr)
    return 1 if done.left else 0


if __name__ == "__main__":
    sys.exit(main())
