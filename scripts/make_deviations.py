"""Make DEVIATIONS.md from docs/deviations.yaml and the configuration; --check only says whether it is up to date."""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended
from oaq_repro.deviations import render
from oaq_repro.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the file is not up to date")
    options = parser.parse_args(arguments)
    return ended(lambda: _make(options.check))


def _make(check: bool) -> int:
    path, text = ROOT / "DEVIATIONS.md", render(ROOT / "docs" / "deviations.yaml")
    if not check:
        print(write_atomic(path, text))
        return 0
    stale = not path.is_file() or path.read_text(encoding="utf-8") != text
    print(f"{path}: {'differs' if stale else 'up to date'}")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
