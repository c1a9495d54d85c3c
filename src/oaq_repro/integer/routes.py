"""Which kernel runs a layer, and why: from its certificate, its accumulator and the instruction set. Our choice.

Modes. `certified`: the result of exact 32-bit accumulation on any input, by 16-bit sums of as many products as can
never overflow. `fast`: the result of the graph's own accumulators, overflow included. `acc32`, `exact`: as
`certified`, but 16-bit sums of one pair (as other x86 runtimes do, where no pair can saturate), or none at all.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from oaq_repro import _kernels
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import reach
from oaq_repro.integer.nodes import Layer, QParams
from oaq_repro.integer.packing import Array, Dense, Depthwise, product_range
from oaq_repro.quant.accumulator import Accumulator

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


def dense_folds(
    packed: Dense, bias: Array, q: QParams, demanded: Demand, mode: Mode, kernels: InstructionSet
) -> tuple[int, ...]:
    """The fold of every panel: 0 (16 bits throughout), the largest safe one, or EXACT."""
    whole, largest = channel_folds(packed, bias, q, demanded, mode, kernels)
    return tuple(np.where(whole.all(1), 0, largest.min(1)).tolist())


def channel_folds(
    packed: Dense, bias: Array, q: QParams, demanded: Demand, mode: Mode, kernels: InstructionSet
) -> tuple[Array, Array]:
    """What every channel alone allows, [panels, 16]: 16 bits throughout (bool); the largest safe fold, or EXACT."""
    largest = np.full((len(packed.weights), _kernels.PANEL), _kernels.EXACT)
    whole = np.zeros(largest.shape, bool)
    if mode == "exact":
        return whole, largest
    offset = kernels.code_offset(q)
    safe = packed.safe_folds(-offset, q.q_max - offset, kernels.folds[:1] if mode == "acc32" else kernels.folds)
    for fold, fits in safe.items():
        largest[fits] = np.maximum(largest[fits], fold)
    if mode != "acc32":
        whole = packed.whole_fits(q) if demanded.bits == 32 else np.full(largest.shape, demanded.bits == 16)
        whole &= np.pad(_small(bias), (0, largest.size - len(bias)), constant_values=True).reshape(largest.shape)
        whole &= safe[1] | (not kernels.saturates)
    return whole, largest


def depthwise_codes(q: QParams, mode: Mode, kernels: InstructionSet) -> tuple[int, int] | None:
    """Smallest and largest code that pairs of taps are made for; None where each product goes to 32 bits alone."""
    offset = kernels.code_offset(q)
    return None if mode == "exact" else (-offset, q.q_max - offset)


def depthwise_folds(
    blocks: Sequence[Depthwise], bias: Array, q: QParams, demanded: Demand, mode: Mode, kernels: InstructionSet
) -> tuple[int, ...]:
    """The fold of every block of channels, whose taps are packed for `depthwise_codes`."""
    if mode in ("acc32", "exact"):
        return (1,) * len(blocks)
    offset = kernels.code_offset(q)
    cuts = range(_kernels.CHANNEL_BLOCK, len(bias), _kernels.CHANNEL_BLOCK)
    folds = []
    for block, small in zip(blocks, np.split(_small(bias), cuts), strict=True):
        whole = demanded.bits == 16 or (demanded.bits == 32 and block.whole_fits(q))
        folds.append(0 if whole and small.all() else block.longest_fold(-offset, q.q_max - offset))
    return tuple(folds)


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
