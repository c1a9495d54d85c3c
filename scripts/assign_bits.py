"""Bits per layer for a run, as HAWQ-V3 chooses them: python scripts/assign_bits.py OVERRIDES... [--fraction 0.5].

OVERRIDES are those of the run. Prints overrides to add to them, one a line, and to standard error what they come to:

    python scripts/assign_bits.py data=digits method=int8 > bits.txt
    python -m oaq_repro data=digits method=int8 $(cat bits.txt)
"""

import argparse
import sys
from contextlib import redirect_stdout
from typing import get_args

from oaq_repro.extras import require

require("train")

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from oaq_repro.bit_search import Choice, Constraint, Search, arguments, search
from oaq_repro.errors import InputError
from oaq_repro.run import Run
from oaq_repro.settings.composing import config_folder, resolve
from oaq_repro.settings.schema import read
from oaq_repro.training.stage import torch_threads

DEFAULT = Search()


def main(given: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of the run, as for python -m oaq_repro")
    parser.add_argument("--widths", type=int, nargs="+", default=DEFAULT.widths, help="bits to choose from (4 8)")
    parser.add_argument("--constraint", choices=get_args(Constraint), default=DEFAULT.constraint, help="(bops)")
    parser.add_argument("--fraction", type=float, default=DEFAULT.fraction, help="of the way up from the least (0.5)")
    parser.add_argument(
        "--choice", choices=get_args(Choice), default=DEFAULT.choice, help="others are controls (least)"
    )
    parser.add_argument("--vectors", type=int, default=DEFAULT.vectors, help="of Hutchinson's estimate (32)")
    parser.add_argument("--batches", type=int, default=DEFAULT.batches, help="of training images (4)")
    options = vars(parser.parse_intermixed_args(given))
    overrides = options.pop("overrides")
    wanted = Search(**options | {"widths": tuple(options["widths"])})
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            settings = read(resolve(compose("config", overrides)))
        pl.seed_everything(settings.seed, workers=True, verbose=False)
        with torch_threads(settings.threads), redirect_stdout(sys.stderr):  # where progress belongs here
            found = search(Run.prepared(settings), wanted)
    except (InputError, HydraException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*arguments(found.overrides), sep="\n")
    done = found.assignment
    bits = {width: list(done.bits.values()).count(width) for width in sorted(set(wanted.widths))}
    counted = ", ".join(f"{count} at {width} bits" for width, count in bits.items())
    cost = f"{wanted.constraint} {done.cost:.6g} of at most {found.bound:.6g}"
    print(f"{counted}; sensitivity {done.sensitivity:.6g}, {cost}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
