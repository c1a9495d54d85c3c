"""How a kernel sums products, by name, and what each mode permits. Our choice.

Modes. `certified`: the result of exact 32-bit accumulation on any input, by 16-bit sums of as many products as can
never overflow. `fast`: the result of the graph's own accumulators, overflow included. `acc32`, `exact`: as
`certified`, but 16-bit sums of one pair (as other x86 runtimes do, where no pair can saturate), or none at all.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from oaq_repro.errors import InputError

Mode = Literal["certified", "fast", "acc32", "exact"]
MODES: tuple[Mode, ...] = ("certified", "fast", "acc32", "exact")


class Route(NamedTuple):
    """How the products of a panel of a dense layer, or of a block of channels, are summed (csrc/kernels.hpp).

    fold: of "folded", at least 1: steps of four products (depthwise: pairs of taps) that go to 16-bit sums before they
    are added up in 32 bits.
    """

    sums: Literal["exact", "folded", "whole", "pairs"]
    fold: int = 0


EXACT = Route("exact")  # 32 bits at once: needs no condition
WHOLE = Route("whole")  # 16 bits throughout
PAIRS = Route("pairs")  # the same for two panels side by side


def folded(fold: int) -> Route:
    """16-bit sums of so many steps."""
    return Route("folded", fold)


@dataclass(frozen=True)
class Permits:
    """What a mode permits.

    overflow: layers may have their own accumulators' results, overflow included. whole: sums may stay in 16 bits
    throughout. longest_fold: the most steps (depthwise: pairs of taps) that go to a 16-bit sum; 0: none, None: any.
    """

    mode: Mode
    overflow: bool
    whole: bool
    longest_fold: int | None

    @staticmethod
    def of(mode: Any) -> "Permits":
        """Those of a mode; InputError unless it is one of MODES."""
        if mode not in MODES:
            raise InputError(f"mode: found {mode!r}, expected one of {', '.join(MODES)}")
        return _PERMITS[mode]


_PERMITS: dict[Mode, Permits] = {
    "certified": Permits("certified", overflow=False, whole=True, longest_fold=None),
    "fast": Permits("fast", overflow=True, whole=True, longest_fold=None),
    "acc32": Permits("acc32", overflow=False, whole=False, longest_fold=1),
    "exact": Permits("exact", overflow=False, whole=False, longest_fold=0),
}
