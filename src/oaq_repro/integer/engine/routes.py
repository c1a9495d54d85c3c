"""Which kernel runs a layer, and why: from its certificate, its accumulator and the instruction set. Our choice."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag, auto
from typing import Literal

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import reach
from oaq_repro.integer.engine.multipliers import largest_values
from oaq_repro.integer.engine.packing import Dense, Depthwise
from oaq_repro.integer.engine.sums import EXACT, PAIRS, WHOLE, Permits, Route, folded
from oaq_repro.integer.graph.arithmetic import Array, product_range
from oaq_repro.integer.graph.nodes import Layer, QParams

INT32 = Accumulator(bits=32)
# Time of a layer by route, as a multiple of WHOLE: medians over the convolutions of MobileNets and ResNets that
# `scripts/benchmark.py kernels` times (AVX2). Only their order and rough size matter.
STEP_COST = {
    WHOLE: 1.0, folded(16): 1.06, folded(8): 1.09, folded(4): 1.15, folded(2): 1.29, folded(1): 1.5, EXACT: 1.97,
}  # fmt: skip
EXACT_PAIR_COST = 1.4
"""Of two taps whose products go to 32 bits, as a multiple of those that are added in 16 bits first."""
SHIFT = 128  # taken off every code where an instruction set multiplies signed codes


@dataclass(frozen=True)
class InstructionSet:
    """One row of the table of kernels (csrc/kernels.hpp): name, its folds, and what it asks of its operands.

    pairs: whether it has the route PAIRS, for two panels of WHOLE at a time.
    """

    isa: str
    largest_code: int
    saturates: bool
    folds: tuple[int, ...]
    pairs: bool

    @staticmethod
    def selected(name: str | None = None) -> "InstructionSet":
        """That of this name, else of the environment variable OAQ_ISA, else the best that this machine has.

        InputError for a name that is unknown or not available here.
        """
        wanted = name or os.environ.get("OAQ_ISA") or None
        rows = [row for row in _kernels.table() if row["available"]]
        for row in rows:
            if wanted in (None, row["isa"]):
                routes = [Route(*route) for route in row["routes"]]
                folds = tuple(sorted(route.fold for route in routes if route.sums == "folded"))
                pairs = PAIRS in routes
                return InstructionSet(row["isa"], row["largest_code"], row["saturates"], folds, pairs)
        raise InputError(f"OAQ_ISA: found {wanted!r}, expected one of {', '.join(row['isa'] for row in rows)}")

    def code_offset(self, q: QParams) -> int:
        """What is taken off the codes of a tensor."""
        return 0 if q.q_max <= self.largest_code else SHIFT


@dataclass(frozen=True)
class Demand:
    """What a layer's result has to be: sums kept to `bits` bits (32: exact), and on what grounds."""

    bits: int
    claim: Literal["certified", "empirical"]


def demand(layer: Layer, q: QParams, permits: Permits) -> Demand | None:
    """What is asked of a layer; None where only the scalar reference computes its accumulator's overflow."""
    policy = layer.accumulator
    if not permits.overflow or policy == INT32:
        return Demand(32, "certified")
    lower, upper = reach(layer, q, policy)
    if policy.minimum <= lower and upper <= policy.maximum:
        return Demand(32, "certified")
    if policy.overflow == "wrap" and not policy.splits:
        return Demand(policy.bits, "empirical")
    return None


class Obstacle(IntFlag):
    """What keeps a sum from 16 bits throughout, and pairs that have to be taken apart for it."""

    MODE = auto()  # it asks for 32 bits
    WIDTH = auto()  # no register has the accumulator's bits
    REACH = auto()  # an input could overflow it
    BIAS = auto()  # larger than kernels of 16 bits add
    PAIRS = auto()  # two products could leave the range to which the instruction saturates them: no obstacle alone


@dataclass(frozen=True, eq=False)
class ChannelFolds:
    """What every output channel alone allows: int64 [O] each.

    longest: the longest fold that no input can overflow, 0 where there is none. obstacles: flags of `Obstacle`; with
    none but pairs, sums may stay in 16 bits. apart: bool [O, steps], where these pairs are, to be taken apart then.
    """

    longest: Array
    obstacles: Array
    apart: Array

    def permuted(self, order: Array) -> "ChannelFolds":
        """Of the channels in that order."""
        return ChannelFolds(self.longest[order], self.obstacles[order], self.apart[order])

    def panels(self, width: int = _kernels.PANEL) -> tuple[Route, ...]:
        """The route of every panel of so many channels, which is that of its unluckiest one."""
        firsts = np.arange(0, len(self.longest), width)
        longest = np.minimum.reduceat(self.longest, firsts).tolist()
        obstacles = (np.bitwise_or.reduceat(self.obstacles, firsts) & ~Obstacle.PAIRS).tolist()
        return tuple(
            WHOLE if not found else folded(fold) if fold else EXACT
            for fold, found in zip(longest, obstacles, strict=True)
        )

    def costs(self, width: int = _kernels.PANEL) -> Array:
        """Time of every panel as a multiple of WHOLE, where each step with pairs to be taken apart counts twice."""
        routes = self.panels(width)
        twice = np.logical_or.reduceat(self.apart, np.arange(0, len(self.apart), width)).mean(1)
        return np.array([STEP_COST[route] for route in routes]) + twice * [route == WHOLE for route in routes]


def channel_folds(
    packed: Dense, bias: Array, q: QParams, demanded: Demand, permits: Permits, kernels: InstructionSet
) -> ChannelFolds:
    """Of a dense layer's (or group's) channels."""
    offset = kernels.code_offset(q)
    folds = [fold for fold in kernels.folds if permits.longest_fold is None or fold <= permits.longest_fold]
    bounds = packed.bounds(-offset, q.q_max - offset, folds)
    apart = bounds.apart if permits.whole and kernels.saturates else np.zeros_like(bounds.apart)
    obstacles = np.zeros(len(bias), np.int64)
    if not permits.whole:
        obstacles |= Obstacle.MODE
    else:
        if demanded.bits == 32:
            obstacles[~bounds.whole_fits(q)] |= Obstacle.REACH
        elif demanded.bits != 16:
            obstacles |= Obstacle.WIDTH
        obstacles[apart.any(1)] |= Obstacle.PAIRS
        obstacles[~_small(bias)] |= Obstacle.BIAS
    return ChannelFolds(bounds.longest, obstacles, apart)


def depthwise_routes(
    blocks: Sequence[Depthwise], bias: Array, q: QParams, demanded: Demand, permits: Permits, kernels: InstructionSet
) -> tuple[tuple[Route, ...], Obstacle]:
    """The route of every block of channels, and what keeps some of them from WHOLE."""
    offset = kernels.code_offset(q)
    cuts = range(_kernels.CHANNEL_BLOCK, len(bias), _kernels.CHANNEL_BLOCK)
    routes, obstacles = [], Obstacle(0)
    for block, small in zip(blocks, np.split(_small(bias), cuts), strict=True):
        found = Obstacle(0) if permits.whole else Obstacle.MODE
        if permits.whole:
            found |= Obstacle(0) if small.all() else Obstacle.BIAS
            if demanded.bits == 32:
                found |= Obstacle(0) if block.whole_fits(q) else Obstacle.REACH
            elif demanded.bits != 16:
                found |= Obstacle.WIDTH
        routes.append(_parts(block, -offset, q.q_max - offset, permits) if found else WHOLE)
        obstacles |= found
    return tuple(routes), obstacles


def _parts(block: Depthwise, lowest: int, highest: int, permits: Permits) -> Route:
    """The longest permitted fold; EXACT where there is none, or so many taps stand alone that it takes longer."""
    fold = block.longest_fold(lowest, highest)
    fold = fold if permits.longest_fold is None else min(fold, permits.longest_fold)
    if fold == 0 or (fold == 1 and len(block.taps) > EXACT_PAIR_COST * len(block.two_by_two().taps)):
        return EXACT
    return folded(fold)


def _small(bias: Array) -> Array:
    """Which biases (bool) are such as kernels of 16-bit sums ask for."""
    return np.abs(bias.astype(np.int64)) <= _kernels.LARGEST_BIAS


def scales_within_int32(layer: Layer, q: QParams, demanded: Demand) -> bool:
    """Whether what `acc + bias` is scaled to stays inside int32 for all that acc can be, as the kernels ask."""
    low, high = product_range(layer.matrix, -q.zero_point, q.q_max - q.zero_point)
    reached = np.maximum(-low.sum(1, dtype=np.int64), high.sum(1, dtype=np.int64))
    largest = np.minimum(reached.reshape(len(layer.bias), -1).max(1), 1 << (demanded.bits - 1))
    reach = np.minimum(largest + np.abs(layer.bias.astype(np.int64)), 1 << 31)
    return bool((largest_values(layer, q, reach) < (1 << 31) - 256).all())
