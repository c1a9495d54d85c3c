"""Which kernel runs a layer, and why: from its certificate, its accumulator and the instruction set. Our choice.

Modes. `certified`: the result of exact 32-bit accumulation on any input, by 16-bit sums of as many products as can
never overflow. `fast`: the result of the graph's own accumulators, overflow included. `acc32`, `exact`: as
`certified`, but 16-bit sums of one pair (as other x86 runtimes do, where no pair can saturate), or none at all.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag, auto
from typing import Any, Literal

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import reach
from oaq_repro.integer.engine.packing import Array, Dense, Depthwise, product_range
from oaq_repro.integer.graph.nodes import Layer, QParams

Mode = Literal["certified", "fast", "acc32", "exact"]
MODES: tuple[Mode, ...] = ("certified", "fast", "acc32", "exact")
INT32 = Accumulator(bits=32)
SHIFT = 128  # taken off every code where an instruction set multiplies signed codes


@dataclass(frozen=True)
class InstructionSet:
    """One row of the table of kernels (csrc/kernels.hpp): name, its folds, and what it asks of its operands.

    pairs: whether it has the route PAIRS, for two panels of fold 0 at a time.
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
                folds = tuple(sorted(fold for fold in row["folds"] if fold > 0))
                pairs = _kernels.PAIRS in row["folds"]
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


def demand(layer: Layer, q: QParams, mode: Mode) -> Demand | None:
    """What the mode asks of a layer; None where only the scalar reference computes its accumulator's overflow."""
    policy = layer.accumulator
    if mode != "fast" or policy == INT32:
        return Demand(32, "certified")
    lower, upper = reach(layer, q, policy)
    if policy.minimum <= lower and upper <= policy.maximum:
        return Demand(32, "certified")
    if policy.overflow == "wrap" and not policy.splits:
        return Demand(policy.bits, "empirical")
    return None


class Obstacle(IntFlag):
    """What keeps a sum from 16 bits throughout."""

    MODE = auto()  # it asks for 32 bits
    WIDTH = auto()  # no register has the accumulator's bits
    REACH = auto()  # an input could overflow it
    BIAS = auto()  # larger than kernels of 16 bits add
    PAIRS = auto()  # two products could leave the range to which the instruction saturates them


@dataclass(frozen=True, eq=False)
class ChannelFolds:
    """What every output channel alone allows: int64 [O] each.

    largest: the largest fold that no input can overflow, or EXACT. obstacles: flags of `Obstacle`; with none, fold 0.
    """

    largest: Array
    obstacles: Array

    def permuted(self, order: Array) -> "ChannelFolds":
        """Of the channels in that order."""
        return ChannelFolds(self.largest[order], self.obstacles[order])

    def panels(self) -> tuple[int, ...]:
        """The fold of every panel, which is that of its unluckiest channel: 0, S or EXACT."""
        firsts = np.arange(0, len(self.largest), _kernels.PANEL)
        least = np.minimum.reduceat(self.largest, firsts)
        return tuple(np.where(np.bitwise_or.reduceat(self.obstacles, firsts) == 0, 0, least).tolist())


def channel_folds(
    packed: Dense, bias: Array, q: QParams, demanded: Demand, mode: Mode, kernels: InstructionSet
) -> ChannelFolds:
    """Of a dense layer's (or group's) channels."""
    largest = np.full((len(packed.weights), _kernels.PANEL), _kernels.EXACT)
    obstacles = np.zeros(largest.shape, np.int64)
    if mode in ("acc32", "exact"):
        obstacles |= Obstacle.MODE
    if mode != "exact":
        offset = kernels.code_offset(q)
        safe = packed.safe_folds(-offset, q.q_max - offset, kernels.folds[:1] if mode == "acc32" else kernels.folds)
        for fold, fits in safe.items():
            largest[fits] = np.maximum(largest[fits], fold)
        if mode != "acc32":
            if demanded.bits == 32:
                obstacles[~packed.whole_fits(q)] |= Obstacle.REACH
            elif demanded.bits != 16:
                obstacles |= Obstacle.WIDTH
            if kernels.saturates:
                obstacles[~safe[1]] |= Obstacle.PAIRS
    folds = ChannelFolds(largest.ravel()[: len(bias)], obstacles.ravel()[: len(bias)])
    if mode not in ("acc32", "exact"):
        folds.obstacles[~_small(bias)] |= Obstacle.BIAS
    return folds


def depthwise_codes(q: QParams, mode: Mode, kernels: InstructionSet) -> tuple[int, int] | None:
    """Smallest and largest code that pairs of taps are made for; None where each product goes to 32 bits alone."""
    offset = kernels.code_offset(q)
    return None if mode == "exact" else (-offset, q.q_max - offset)


def depthwise_folds(
    blocks: Sequence[Depthwise], bias: Array, q: QParams, demanded: Demand, mode: Mode, kernels: InstructionSet
) -> tuple[tuple[int, ...], Obstacle]:
    """The fold of every block of channels, whose taps are packed for `depthwise_codes`, and what keeps some from 0."""
    if mode in ("acc32", "exact"):
        return (1,) * len(blocks), Obstacle.MODE
    offset = kernels.code_offset(q)
    cuts = range(_kernels.CHANNEL_BLOCK, len(bias), _kernels.CHANNEL_BLOCK)
    folds, obstacles = [], Obstacle(0)
    for block, small in zip(blocks, np.split(_small(bias), cuts), strict=True):
        found = Obstacle(0) if small.all() else Obstacle.BIAS
        if demanded.bits == 32:
            found |= Obstacle(0) if block.whole_fits(q) else Obstacle.REACH
        elif demanded.bits != 16:
            found |= Obstacle.WIDTH
        folds.append(block.longest_fold(-offset, q.q_max - offset) if found else 0)
        obstacles |= found
    return tuple(folds), obstacles


def _small(bias: Array) -> Array:
    """Which biases (bool) are such as kernels of 16-bit sums ask for."""
    return np.abs(bias.astype(np.int64)) <= _kernels.LARGEST_BIAS


def scales_within_int32(layer: Layer, q: QParams, demanded: Demand) -> bool:
    """Whether `(acc + bias) * multiplier` stays inside int32 for all that acc can be, as the kernels ask."""
    low, high = product_range(layer.matrix, -q.zero_point, q.q_max - q.zero_point)
    largest = np.minimum(np.maximum(-low.sum(1, dtype=np.int64), high.sum(1, dtype=np.int64)), 1 << (demanded.bits - 1))
    reach = np.minimum(largest + np.abs(layer.bias.astype(np.int64)), 1 << 31)
    return bool((reach * layer.multiplier.astype(np.float64) < (1 << 31) - 256).all())


def check_mode(mode: Any) -> None:
    """InputError unless it is one of MODES."""
    if mode not in MODES:
        raise InputError(f"mode: found {mode!r}, expected one of {', '.join(MODES)}")
