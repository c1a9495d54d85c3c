"""Ratios of scales as integers, in NumPy: one definition for simulation, reference, engine and ONNX.

See `requantization.py` for what they are for. Source of the dyadic form: HAWQ-V3 (Yao et al., ICML 2021), whose code
leaves M = 2^31 as it is; the rest is our choice.
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

DYADIC_BITS = 31  # of a multiplier in the requantization dyadic, and of everything but layers and sums in fixed16
SUM_BITS = {"dyadic": DYADIC_BITS, "fixed16": 15}  # of the multipliers of a sum of two values
FIXED16_SHIFT = 15
FIXED16_LARGEST = (1 << FIXED16_SHIFT) - 1
SNAP_TOLERANCE = 1e-5  # relative distance of a ratio in float32 scales from its fraction m / 2^15
INT16 = -(1 << 15), (1 << 15) - 1
SHARE_BITS = 11  # of a pixel's share of a resized one, along one axis


def product_ratio(a: Any, b: Any, output: Any) -> Array:
    """float64 `float32(s_a * s_b) / s_out` of float32 scales: for products of two values, and for sums of such."""
    return np.asarray(np.multiply(a, b, dtype=np.float32), np.float64) / np.float64(output)


def mean_ratio(scale: Any, output: Any, count: int | Array) -> Array:
    """float64 `s_in / (s_out * n)` of averages over n codes."""
    return np.float64(scale) / (np.float64(output) * np.asarray(count, np.float64))


def dyadic(ratio: Any, bits: int = DYADIC_BITS) -> tuple[Array, Array]:
    """Multiplier M and shift s, int64 in the shape of `ratio` (float64, above 0), with M / 2^s nearest to it.

    M has `bits` bits, its highest one set, and 1 <= s <= 2 * bits. Where a smaller ratio would need a larger shift, M
    has fewer bits and may be 0; where a larger one would need s < 1, M is 2^bits - 1 and s is 1: whatever is multiplied
    by that is clamped, unless it is 0.
    """
    fraction, exponent = np.frexp(np.asarray(ratio, np.float64))
    rounds_up = half_up(np.ldexp(fraction, bits)) >= 2.0**bits  # 2^bits becomes 2^(bits - 1), one shift less
    shift = np.clip(bits - exponent.astype(np.int64) - rounds_up, 1, 2 * bits)
    return multiplier_at(ratio, shift, bits), shift


def dyadic_sum(ratios: Any, bits: int) -> tuple[Array, int]:
    """Multipliers, int64 [n], and their one shift for a sum of n values: the largest ratio's, as `dyadic` has it.

    With 15 bits a sum of two values of codes needs 32 bits, with 31 it needs 64.
    """
    _, shift = dyadic(np.max(ratios), bits)
    return multiplier_at(ratios, shift, bits), int(shift)


def multiplier_at(ratio: Any, shift: Any, bits: int) -> Array:
    """int64 `floor(ratio * 2^shift + 1/2)`, at most 2^bits - 1."""
    return np.minimum(half_up(np.ldexp(np.asarray(ratio, np.float64), shift)), 2.0**bits - 1).astype(np.int64)


def half_up(values: Array) -> Array:
    """`floor(x + 1/2)` of float64 above 0, exactly: the sum itself may round, of the number below 1/2 to 1."""
    whole = np.floor(values)
    return whole + (values - whole >= 0.5)


def fixed16(ratio: Any) -> Array:
    """The integers m, int64, with m / 2^15 nearest to `ratio` (float64); those from 1 to 2^15 - 1 are of use."""
    return np.rint(np.ldexp(np.asarray(ratio, np.float64), FIXED16_SHIFT)).astype(np.int64)


def is_fixed16(ratio: Any) -> Array:
    """bool: whether a ratio, float64, of scales in float32 is m / 2^15 with m from 1 to 2^15 - 1."""
    exact, m = np.ldexp(np.asarray(ratio, np.float64), FIXED16_SHIFT), fixed16(ratio)
    return (m >= 1) & (m <= FIXED16_LARGEST) & (np.abs(exact - m) <= SNAP_TOLERANCE * m)


def resize_shares(t: Array) -> Array:
    """int64 [2, n], the shares in 2^-11 of the first and second pixel where the second one's is t, float32 [n]."""
    second = half_up(np.ldexp(t.astype(np.float64), SHARE_BITS)).astype(np.int64)
    return np.stack([(1 << SHARE_BITS) - second, second])


def shifted(total: Any, shift: Any) -> Any:
    """`(total + 2^(s-1)) >> s`, half up: int64 arrays or tensors, the shift an integer or one of them."""
    return (total + (1 << (shift - 1))) >> shift


def saturated16(total: Any) -> Any:
    """Clamped to int16: an array or a tensor of integers."""
    return total.clip(*INT16)
