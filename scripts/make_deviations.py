"""Make DEVIATIONS.md and SURVEY.md from docs/deviations.yaml, docs/survey.yaml and the configuration.

With --check nothing is written, it is only said whether they are up to date.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro import deviations, survey
from oaq_repro.command_line import ended
from oaq_repro.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"DEVIATIONS.md": ("deviations.yaml", deviations.render), "SURVEY.md": ("survey.yaml", survey.render)}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a file is not up to date")
    options = parser.parse_args(arguments)
    return ended(lambda: _make(options.check))


def _make(check: bool) -> int:
    status = 0
    for page, (words, render) in PAGES.items():
        path, text = ROOT / page, render(ROOT / "docs" / words)
        if not check:
            print(write_atomic(path, text))
            continue
        stale = not path.is_file() or path.read_text(encoding="utf-8") != text
        print(f"{path}: {'differs' if stale else 'up to date'}")
        status |= stale
    return status


if __name__ == "__main__":
    sys.exit(main())
