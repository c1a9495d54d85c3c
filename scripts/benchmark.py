"""Time the engine's kernels, whole networks beside other runtimes, or training steps; write JSON, Markdown and figures.

By default every runtime is restricted to AVX2, so that the numbers stand for CPUs without dot-product instructions.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

from oaq_repro.command_line import ended

ROUNDS = {"kernels": 20, "models": 40, "training": 7}


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=ROUNDS)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results, and for networks to time")
    parser.add_argument("--threads", type=_numbers, default=[1, 2], help="numbers of threads, by commas (default 1,2)")
    parser.add_argument("--networks", type=lambda text: text.split(","), help="names, by commas (default: all)")
    parser.add_argument("--rounds", type=_number, help=f"timed runs of every variant (default {ROUNDS})")
    parser.add_argument("--isa", choices=("avx2", "native"), default="avx2", help="what runtimes may use of the CPU")
    options = parser.parse_args(arguments)
    return ended(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    if options.suite == "training":
        from oaq_repro.benchmark import training

        for path in training.run(options.out, options.rounds or ROUNDS["training"]):
            print(path)
        return 0
    if options.isa == "avx2":
        from oaq_repro.benchmark.restrict import restrict_to_avx2

        restrict_to_avx2()
    from oaq_repro.benchmark import suite  # only now: it imports torch

    rounds = options.rounds or ROUNDS[options.suite]
    for path in suite.run(options.suite, options.out, options.threads, options.networks, rounds, options.isa):
        print(path)
    return 0


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number of at least 1")
    return int(text)


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
