"""Exact worst cases: can any input whatever make a layer's accumulators overflow?

With codes a in [0, q_max] every product's extremes are reached independently of all others, so the extremes of a
partial sum are sums of extremes: no estimate. Wrapping registers hold sums of (a - z) * w, saturating ones sums of
a * w (see `accumulator`). Zero padding is a code z, inside the range, so the bound holds with padding; it is
reached wherever a window lies inside the image. Source: A2Q (arXiv 2308.13504) bounds the same sums by the l1 norm of
the weights; the exact form with signs is our choice.
"""

from dataclasses import dataclass

import numpy as np

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import product_range
from oaq_repro.integer.graph.nodes import Layer, QParams

DEFAULT_BLOCK_BITS = 16  # the register that a 32-bit layer's blocks are asked for


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is possible in one layer.

    lower, upper: smallest and largest reachable partial sum under `accumulator`, lower <= 0 <= upper, over all outputs.
    worst_case: max(upper / maximum, lower / minimum); certified: no partial sum can leave the register.
    longest_block: the largest B for which no aligned block of B consecutive products can leave a register of
    `block_bits` bits, in any output channel; K where the whole sum cannot; 0 where there is no such B.
    longest_block_per_channel: the same for each output channel alone, int64 [O].
    """

    name: str
    accumulator: Accumulator
    lower: int
    upper: int
    worst_case: float
    certified: bool
    block_bits: int
    longest_block: int
    longest_block_per_channel: np.ndarray


def certify(layer: Layer, q: QParams, accumulator: Accumulator | None = None) -> Certificate:
    """Certificate of a layer whose input has QParams `q`, under its own accumulator or another one.

    Blocks are asked for the accumulator's bits, or for 16 where it has 32.
    """
    if not isinstance(layer, Layer):
        raise InputError(f"certificate: found {type(layer).__name__}, expected a node that accumulates products")
    policy = layer.accumulator if accumulator is None else accumulator
    return certify_matrix(layer.name, layer.matrix, q, policy, len(layer.weight))


def certify_matrix(
    name: str, matrix: np.ndarray, q: QParams, policy: Accumulator, outputs: int | None = None
) -> Certificate:
    """As `certify`, for weights [rows, K] of any integer type, in the accumulator's order of k.

    outputs: channels, which have as many rows each, side by side; by default one.
    """
    lowest, highest = reachable_products(matrix, q, policy)
    lower, upper = _extremes(lowest, highest, policy)
    block_bits = policy.bits if policy.bits < 32 else DEFAULT_BLOCK_BITS
    longest, per_channel = longest_blocks(lowest, highest, block_bits, outputs or len(matrix))
    return Certificate(
        name=name,
        accumulator=policy,
        lower=lower,
        upper=upper,
        worst_case=max(upper / policy.maximum, lower / policy.minimum),
        certified=policy.minimum <= lower and upper <= policy.maximum,
        block_bits=block_bits,
        longest_block=longest,
        longest_block_per_channel=per_channel,
    )


def reach(layer: Layer, q: QParams, accumulator: Accumulator) -> tuple[int, int]:
    """Smallest and largest partial sum, over all outputs, that any input can make."""
    return reach_of_matrix(layer.matrix, q, accumulator)


def reach_of_matrix(matrix: np.ndarray, q: QParams, accumulator: Accumulator) -> tuple[int, int]:
    """As `reach`, for weights [O, K] of any integer type."""
    return _extremes(*reachable_products(matrix, q, accumulator), accumulator)


def _extremes(lowest: np.ndarray, highest: np.ndarray, accumulator: Accumulator) -> tuple[int, int]:
    return int(_sum_parts(lowest, accumulator).min()), int(_sum_parts(highest, accumulator).max())


def reachable_products(matrix: np.ndarray, q: QParams, accumulator: Accumulator) -> tuple[np.ndarray, np.ndarray]:
    """Smallest (<= 0) and largest (>= 0) value of every product in the register, int64 [O, K], for weights [O, K]."""
    zero_point = q.zero_point if accumulator.overflow == "wrap" else 0
    return product_range(matrix.astype(np.int64), -zero_point, q.q_max - zero_point)


def _sum_parts(products: np.ndarray, accumulator: Accumulator) -> np.ndarray:
    """Partial sums int64 [O, parts] of products [O, K], as the accumulator splits them."""
    if not accumulator.splits:
        return products.sum(1, keepdims=True)
    part = accumulator.part(np.arange(products.shape[1]))
    order = np.argsort(part, kind="stable")
    firsts = np.unique(part[order], return_index=True)[1]
    return np.add.reduceat(products[:, order], firsts, axis=1)


def longest_blocks(lowest: np.ndarray, highest: np.ndarray, bits: int, outputs: int) -> tuple[int, np.ndarray]:
    """Largest safe aligned block for all channels together and for each alone, int64 [O]; 0 where no block is safe.

    B is searched downwards: a longer block can be safe where a shorter one is not, because its borders lie elsewhere.
    """
    rows, depth = lowest.shape
    minimum, maximum = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    zeros = np.zeros((1, rows), np.int64)
    sums_low = np.concatenate([zeros, np.cumsum(lowest.T, axis=0)])
    sums_high = np.concatenate([zeros, np.cumsum(highest.T, axis=0)])
    together, alone = 0, np.zeros(outputs, np.int64)
    # Sums only grow, so the first block fits up to some length and no further: longer ones need not be tried.
    first_fits = (sums_low[1:] >= minimum) & (sums_high[1:] <= maximum)
    for block in range(int(first_fits.sum(axis=0).max()), 0, -1):
        borders = np.append(np.arange(0, depth, block), depth)
        low, high = np.diff(sums_low[borders], axis=0), np.diff(sums_high[borders], axis=0)
        fits = (low.min(axis=0) >= minimum) & (high.max(axis=0) <= maximum)
        fits = fits.reshape(outputs, -1).all(axis=1)
        alone = np.where((alone == 0) & fits, block, alone)
        if fits.all():
            together = block
            break
    return together, alone
