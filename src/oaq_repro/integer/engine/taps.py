"""Which taps of a depthwise layer are added to one another in 16 bits, so that certified sums are long. Our choice.

The kernels (csrc/kernels.hpp) add the products of two taps at a time and take F such pairs to 32 bits together. A pair,
or a group of F pairs, is certified by its worst case in every channel of a block, and the taps may come in any order:
the order is sought for which F is largest.
"""

from collections.abc import Iterator
from functools import cache
from itertools import combinations

import numpy as np

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.graph.arithmetic import Array

Pair = tuple[int, int]
MINIMUM, MAXIMUM = NAMED["int16"].minimum, NAMED["int16"].maximum
MOST_TAPS = 9  # of which all groups are tried; of more only those that are next to one another


def pair_taps(low: Array, high: Array) -> list[Pair]:
    """Every tap once, two by two in the order in which they are added; (tap, tap) stands for one alone.

    low, high: smallest and largest product of every tap and channel, int32 [taps, channels].
    """
    taps = len(low)
    for fold in range(-(-taps // 2), 1, -1):
        groups, members = _groupings(taps, fold)
        largest, smallest = ((members @ part.astype(np.float32)) for part in (high, low))  # below 2^24: exact
        fits = (largest.max((1, 2)) <= MAXIMUM) & (smallest.min((1, 2)) >= MINIMUM)
        if fits.any():
            return [pair for group in groups[int(fits.argmax())] for pair in _in_a_row(group)]
    can_join = ((low[:, None] + low >= MINIMUM) & (high[:, None] + high <= MAXIMUM)).all(-1)
    return _partners(can_join & ~np.eye(taps, dtype=bool))


@cache
def _groupings(taps: int, fold: int) -> tuple[list[tuple[tuple[int, ...], ...]], Array]:
    """Ways to divide the taps into groups of `fold` pairs and a shorter last one, and which taps each group has.

    The latter as float32 [ways, groups, taps]. Of an odd number of taps one stands alone, in the last group or another.
    """
    sizes = [min(2 * fold, 2 * (-(-taps // 2)) - first) for first in range(0, taps, 2 * fold)]
    shorter = {len(sizes) - 1, 0} if taps % 2 else {None}
    ways = []
    for alone in shorter:
        wanted = tuple(size - (index == alone) for index, size in enumerate(sizes))
        ways += list(_divide(tuple(range(taps)), wanted))
    members = np.zeros((len(ways), len(sizes), taps), np.float32)
    for way, groups in enumerate(ways):
        for index, group in enumerate(groups):
            members[way, index, list(group)] = 1
    return ways, members


def _divide(taps: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Into groups of these sizes, in all ways if there are few taps."""
    if not sizes:
        yield ()
        return
    for group in combinations(taps, sizes[0]) if len(taps) <= MOST_TAPS else [taps[: sizes[0]]]:
        rest = tuple(tap for tap in taps if tap not in group)
        for others in _divide(rest, sizes[1:]):
            yield (group, *others)


def _in_a_row(group: tuple[int, ...]) -> list[Pair]:
    return [(group[i], group[min(i + 1, len(group) - 1)]) for i in range(0, len(group), 2)]


def _partners(can_join: Array) -> list[Pair]:
    """Disjoint pairs of taps that can join (bool [taps, taps]), and last each that is left over, alone.

    A tap with the fewest partners left chooses first, among them one with the fewest.
    """
    left, pairs, single = list(range(len(can_join))), [], []
    while left:
        tap = left.pop(int(can_join[np.ix_(left, left)].sum(1).argmin()))
        partners = [other for other in left if can_join[tap, other]]
        if not partners:
            single.append((tap, tap))
            continue
        partner = min(partners, key=lambda other: int(can_join[other, left].sum()))
        left.remove(partner)
        pairs.append((tap, partner))
    return pairs + single
