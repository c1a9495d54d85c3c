"""What each operator does with codes, in NumPy: channels last, one function per kind. Arithmetic: see `nodes`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.integer.nodes import AvgPool, Conv, Layer, MaxPool, QParams, Resize, ResizeNearest, pool_multiplier
from oaq_repro.integer.shapes import nearest_pixels, pooled_pixels, resize_taps, window_count

Array = np.ndarray[Any, Any]


def quantize(x: Array, q: QParams) -> Array:
    """float32 of any shape to codes: `clamp(rint(x / scale) + zero_point, 0, q_max)`."""
    return _to_codes(x / q.scale, q)


def dequantize(codes: Array, q: QParams) -> Array:
    """float32 `(q - zero_point) * scale`."""
    return (codes.astype(np.float32) - np.float32(q.zero_point)) * q.scale


def accumulate(layer: Layer, x: Array, source: QParams) -> tuple[Array, Array, int, int]:
    """Run a layer's accumulators over codes [N, H, W, C] (Conv) or [N, K] (Linear).

    Returns (acc int32, events uint8, lowest, highest partial sum): acc and events [N, H', W', O] or [N, O].
    """
    policy = layer.accumulator
    depth = layer.weight[0].size
    # More lanes or longer blocks than there are products change nothing, and need not fit the kernel's integers.
    lanes = min(policy.lanes, depth)
    block = None if policy.block is None else min(policy.block, depth)
    bits, saturate = policy.bits, policy.overflow == "saturate"
    x = np.ascontiguousarray(x)
    if isinstance(layer, Conv):
        weight = np.ascontiguousarray(layer.weight.transpose(0, 2, 3, 1))
        return _kernels.conv2d(
            x, weight, source.zero_point, stride=layer.stride, padding=layer.padding, dilation=layer.dilation,
            groups=layer.groups, bits=bits, saturate=saturate, lanes=lanes, block=block,
        )  # fmt: skip
    pixels = x.reshape(1, 1, len(x), depth)  # one image, a row of N pixels: the weights are then read once
    weight = np.ascontiguousarray(layer.weight).reshape(-1, 1, 1, depth)
    acc, events, lowest, highest = _kernels.conv2d(
        pixels, weight, source.zero_point, bits=bits, saturate=saturate, lanes=lanes, block=block
    )
    return acc.reshape(len(x), -1), events.reshape(len(x), -1), lowest, highest


def requantize(acc: Array, multiplier: Array, q: QParams) -> Array:
    """int32 to codes: `clamp(rint(float32(acc) * multiplier) + zero_point, 0, q_max)`; multiplier broadcast."""
    result = acc.astype(np.float32)
    result *= multiplier
    return _to_codes(result, q)


def rescale(codes: Array, source: QParams, output: QParams) -> Array:
    """Codes at other QParams, unchanged at equal ones: `clamp(rint(((q - z) * s) / s_out) + z_out, 0, q_max)`."""
    if source == output:
        return codes
    table = _to_codes(dequantize(np.arange(256, dtype=np.uint8), source) / output.scale, output)
    return table[codes]


def add(a: Array, b: Array, qa: QParams, qb: QParams, output: QParams) -> Array:
    """`clamp(rint(((qa - za) * sa + (qb - zb) * sb) / s_out) + z_out, 0, q_max)`."""
    total = dequantize(a, qa)
    total += dequantize(b, qb)
    total /= output.scale
    return _to_codes(total, output)


def max_pool(node: MaxPool, x: Array) -> Array:
    """Largest code of each window of [N, H, W, C]; zeros beyond the border never win over a code."""
    result: Array | None = None
    for tap in _windows(x, node.kernel, node.stride, node.padding, node.dilation, node.ceil_mode, fill=0):
        result = tap.copy() if result is None else np.maximum(result, tap, out=result)
    assert result is not None  # a kernel has at least one tap
    return result


def average_pool(node: AvgPool, x: Array, source: QParams) -> Array:
    """Mean of each window of [N, H, W, C]."""
    total: Array | None = None
    for tap in _windows(x, node.kernel, node.stride, node.padding, (1, 1), False, fill=source.zero_point):
        total = tap.astype(np.int32) if total is None else np.add(total, tap, out=total)
    assert total is not None
    total -= np.int32(node.kernel[0] * node.kernel[1] * source.zero_point)
    multiplier = pool_multiplier(source, node.output, pooled_pixels(node, x.shape[1], x.shape[2]))
    return requantize(total, multiplier[..., None], node.output)


def global_average_pool(x: Array, source: QParams, output: QParams) -> Array:
    """Mean over height and width of [N, H, W, C]: codes [N, 1, 1, C]."""
    count = x.shape[1] * x.shape[2]
    total = x.sum(axis=(1, 2), keepdims=True, dtype=np.int64) - count * source.zero_point
    return requantize(total.astype(np.int32), pool_multiplier(source, output, count), output)


def resize(node: Resize, x: Array, size: tuple[int, int]) -> Array:
    """Bilinear resize of [N, H, W, C] to `size`: rows first, then columns, rounded once."""
    if x.shape[1:3] == size:
        return x
    values = x.astype(np.float32)
    for axis in (1, 2):
        first, second, t = resize_taps(x.shape[axis], size[axis - 1], node.align_corners)
        t = t.reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        values = values.take(first, axis) * (np.float32(1) - t) + values.take(second, axis) * t
    np.rint(values, out=values)
    return np.clip(values, 0, node.output.q_max).astype(np.uint8)


def resize_nearest(node: ResizeNearest, x: Array) -> Array:
    """Pixels of [N, H, W, C], repeated or left out."""
    for axis in (1, 2):
        numerator, denominator = node.factor[2 * axis - 2], node.factor[2 * axis - 1]
        x = x.take(nearest_pixels(x.shape[axis], numerator, denominator, node.rule), axis)
    return x


def _to_codes(values: Array, q: QParams) -> Array:
    """float32 in units of the scale to codes; overwrites `values`. Where the sum is inexact it is clamped anyway."""
    np.rint(values, out=values)
    values += np.float32(q.zero_point)
    np.clip(values, 0, q.q_max, out=values)
    return values.astype(np.uint8)


def _windows(
    x: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
    ceil: bool, fill: int,
) -> Iterator[Array]:  # fmt: skip
    """One view [N, H', W', C] per position within the kernel, of x with a border of `fill`."""
    counts, borders = [], []
    for axis in range(2):
        size = x.shape[axis + 1]
        count = window_count(size, kernel[axis], stride[axis], padding[axis], dilation[axis], ceil)
        needed = (count - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        counts.append(count)
        borders.append((padding[axis], max(needed - size - padding[axis], 0)))
    padded = np.pad(x, ((0, 0), *borders, (0, 0)), constant_values=fill)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            top, left = row * dilation[0], column * dilation[1]
            bottom, right = top + (counts[0] - 1) * stride[0] + 1, left + (counts[1] - 1) * stride[1] + 1
            yield padded[:, top : bottom : stride[0], left : right : stride[1]]
