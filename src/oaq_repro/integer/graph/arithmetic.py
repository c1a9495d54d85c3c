"""What codes mean and how sums become codes, in NumPy: the arithmetic that operators share. IEEE float32, no fma."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from oaq_repro.fixed_point import FIXED16_SHIFT, INT16, dyadic, fixed16, saturated16, shifted

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class QParams:
    """Affine quantization of one tensor: `real = scale * (code - zero_point)`, codes uint8 in [0, q_max]."""

    scale: np.float32
    zero_point: int
    q_max: int


def quantize(x: Array, q: QParams) -> Array:
    """float32 of any shape to codes: `clamp(rint(x / scale) + zero_point, 0, q_max)`."""
    return to_codes(x / q.scale, q)


def dequantize(codes: Array, q: QParams) -> Array:
    """float32 `(q - zero_point) * scale`."""
    return (codes.astype(np.float32) - np.float32(q.zero_point)) * q.scale


def product_range(weights: Array, lowest_code: int, highest_code: int) -> tuple[Array, Array]:
    """Smallest and largest product of every weight with a code of that range: int32, or int64 for such weights."""
    wide = weights.astype(np.promote_types(weights.dtype, np.int32))
    at_low, at_high = wide * lowest_code, wide * highest_code
    return np.minimum(at_low, at_high), np.maximum(at_low, at_high)


def requantize(acc: Array, multiplier: Array, q: QParams) -> Array:
    """int32 to codes: `clamp(rint(float32(acc) * multiplier) + zero_point, 0, q_max)`; multiplier broadcast."""
    result = acc.astype(np.float32)
    result *= multiplier
    return to_codes(result, q)


def requantize_dyadic(acc: Array, ratio: Array, q: QParams) -> Array:
    """int32 to codes: `clamp(((acc * M + 2^(s-1)) >> s) + zero_point, 0, q_max)`, int64; ratio float64, broadcast."""
    multiplier, shift = dyadic(ratio)
    return integer_codes(shifted(acc.astype(np.int64) * multiplier, shift), q)


def requantize_fixed16(acc: Array, ratio: Array, q: QParams) -> Array:
    """int32 to codes: `clamp(((sat16(acc) * m + 2^14) >> 15) + zero_point, 0, q_max)`; ratio float64, broadcast."""
    return _multiplied16(saturated16(acc), ratio, q)


def changed_by_saturation(acc: Array, ratio: Array, q: QParams) -> tuple[Array, float]:
    """What the saturation of `requantize_fixed16` does to sums int32 [..., O], ratio float64 [O].

    bool, whether it makes another code; and the largest sum as a multiple of its limit, where the limit matters: on a
    side on which the channel's limit is clamped anyway no sum counts.
    """
    changed = _multiplied16(acc, ratio, q) != requantize_fixed16(acc, ratio, q)
    below, above = (_multiplied16(np.full(len(ratio), end), ratio, q) for end in INT16)
    sums = acc.reshape(-1, len(ratio))
    peaks = (sums.min(0) / INT16[0])[below > 0], (sums.max(0) / INT16[1])[above < q.q_max]
    return changed, float(np.concatenate(peaks).max(initial=0.0))


def _multiplied16(acc: Array, ratio: Array, q: QParams) -> Array:
    return integer_codes(shifted(acc.astype(np.int64) * fixed16(ratio), FIXED16_SHIFT), q)


def rescale(codes: Array, source: QParams, output: QParams) -> Array:
    """Codes at other QParams, unchanged at equal ones: `clamp(rint(((q - z) * s) / s_out) + z_out, 0, q_max)`."""
    return codes if source == output else rescaling_table(source, output)[codes]


def rescaling_table(source: QParams, output: QParams) -> Array:
    """What `rescale` makes of every code, uint8 [256]."""
    codes = np.arange(256, dtype=np.uint8)
    return codes if source == output else to_codes(dequantize(codes, source) / output.scale, output)


def function_table(values: Array, output: QParams) -> Array:
    """uint8 [256] from what a function makes of every code, float32 [256]; where that is NaN, the code of zero."""
    return to_codes(np.where(np.isnan(values), np.float32(0), values) / output.scale, output)


def to_codes(values: Array, q: QParams) -> Array:
    """float32 in units of the scale to codes; overwrites `values`. Where the sum is inexact it is clamped anyway."""
    np.rint(values, out=values)
    values += np.float32(q.zero_point)
    np.clip(values, 0, q.q_max, out=values)
    return values.astype(np.uint8)


def integer_codes(values: Array, q: QParams) -> Array:
    """int64 in units of the scale to codes; overwrites `values`."""
    values += q.zero_point
    np.clip(values, 0, q.q_max, out=values)
    return values.astype(np.uint8)
