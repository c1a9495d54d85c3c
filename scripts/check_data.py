"""Check a data set before training: python scripts/check_data.py data=voc_detection data.root=/data/voc.

Takes the overrides of `python -m oaq_repro`. Reads and decodes what a run would (behind a progress bar) and prints what
is there, what is missing and how to get it; exit status 1 where something is missing or broken.
"""

import sys

from oaq_repro.extras import require

require("train")

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from oaq_repro.command_line import ended
from oaq_repro.data.inspection import inspect_data
from oaq_repro.hints import quiet
from oaq_repro.settings.composing import config_folder, resolve
from oaq_repro.settings.schema import build


def main(overrides: list[str]) -> int:
    """Print the report; return the exit status."""
    quiet()
    return ended(lambda: _report(overrides), HydraException, OmegaConfBaseException)


def _report(overrides: list[str]) -> int:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides)
    report = inspect_data(build("data", resolve(config)["data"]))
    for finding in report.findings:
        print(f"{finding.state:8} {finding.text}")
    if report.get and any(finding.state == "missing" for finding in report.findings):
        print(f"\nHow to get it: {report.get}")
    return 0 if report.complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
