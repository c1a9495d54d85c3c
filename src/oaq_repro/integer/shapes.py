"""Shapes of a graph's values, and where bilinear resizing reads. Shapes are without the batch dimension."""

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Node,
    Resize,
)

Shape = tuple[int, ...]
LARGEST_AVERAGE = (2**31 - 1) // 255  # codes whose sum fits into int32
LARGEST_VALUE = 1 << 31  # elements per image


def resize_taps(size: int, output_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and weights of one axis of a bilinear resize, as torch.nn.functional.interpolate places them.

    Returns (first int64 [output_size], second int64, t float32): the value is `x[first] * (1 - t) + x[second] * t`.
    In float64: with align_corners `position = i * ((size - 1) / (output_size - 1))` (0 where output_size is 1),
    otherwise `position = max((i + 0.5) * (size / output_size) - 0.5, 0)`; first = floor(position), at most size - 1;
    second = min(first + 1, size - 1); t = position - first, rounded to float32.
    """
    i = np.arange(output_size, dtype=np.float64)
    if align_corners:
        position = i * ((size - 1) / (output_size - 1) if output_size > 1 else 0.0)
    else:
        position = np.maximum((i + 0.5) * (size / output_size) - 0.5, 0.0)
    first = np.minimum(np.floor(position).astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), (position - first).astype(np.float32)


def output_shape(node: Node, inputs: list[Shape]) -> Shape:
    """Shape of a node's value from its inputs' shapes (all without batch); InputError where they do not fit."""

    def fail(expected: str) -> InputError:
        found = " and ".join(str(list(shape)) for shape in inputs)
        return InputError(f"graph node {node.name!r}: found an input [C, ...] of shape {found}, expected {expected}")

    source = inputs[0]
    if isinstance(node, Linear):
        if len(source) != 1 or source[0] != node.weight.shape[1]:
            raise fail(f"[{node.weight.shape[1]}]")
        return (node.weight.shape[0],)
    if isinstance(node, Flatten):
        return (int(np.prod(source, dtype=object)),)
    if isinstance(node, Add):
        if inputs[0] != inputs[1]:
            raise fail("two equal shapes")
        return source
    if isinstance(node, Concat):
        if any(len(shape) != len(source) or shape[1:] != source[1:] for shape in inputs):
            raise fail("shapes that differ in channels only")
        return (sum(shape[0] for shape in inputs), *source[1:])
    if isinstance(node, Conv | MaxPool | AvgPool | GlobalAvgPool | Resize) and any(len(shape) != 3 for shape in inputs):
        raise fail("[channels, height, width]")
    if isinstance(node, GlobalAvgPool):
        if source[1] * source[2] > LARGEST_AVERAGE:
            raise fail(f"at most {LARGEST_AVERAGE} pixels")
        return (source[0], 1, 1) if node.keepdims else (source[0],)
    if isinstance(node, Resize):
        return (source[0], *inputs[1][1:])
    if isinstance(node, Conv):
        channels = node.weight.shape[1] * node.groups
        if source[0] != channels:
            raise fail(f"{channels} channels")
        kernel, dilation, outputs = node.weight.shape[2:], node.dilation, node.weight.shape[0]
        if channels * (source[1] + 2 * node.padding[0]) * (source[2] + 2 * node.padding[1]) > LARGEST_VALUE:
            raise fail("at most 2^31 elements, padding included")
    elif isinstance(node, MaxPool):
        kernel, dilation, outputs = node.kernel, node.dilation, source[0]
    elif isinstance(node, AvgPool):
        if node.kernel[0] * node.kernel[1] > LARGEST_AVERAGE:
            raise fail(f"a kernel of at most {LARGEST_AVERAGE} pixels")
        kernel, dilation, outputs = node.kernel, (1, 1), source[0]
    else:  # Quantize, Requantize, Dequantize
        return source
    ceil = isinstance(node, MaxPool) and node.ceil_mode
    sizes = [
        window_count(source[1 + i], kernel[i], node.stride[i], node.padding[i], dilation[i], ceil) for i in range(2)
    ]
    if min(sizes) < 1:
        raise fail("a padded height and width that hold the kernel")
    if outputs * sizes[0] * sizes[1] > LARGEST_VALUE:
        raise fail("an output of at most 2^31 elements")
    return (outputs, *sizes)


def window_count(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    """Windows along one axis, by PyTorch's rules: `ceil` adds a partial one unless it starts in the right padding."""
    free = size + 2 * padding - dilation * (kernel - 1) - 1
    if free < 0 and not ceil:
        return 0
    count = (-(-free // stride) if ceil else free // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    return count
