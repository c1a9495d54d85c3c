"""Shapes of a graph's values, and where bilinear resizing reads. Shapes are without the batch dimension."""

from collections.abc import Iterable, Sequence
from math import prod

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
    ResizeNearest,
)

Shape = tuple[int, ...]
LARGEST_AVERAGE = (2**31 - 1) // 255  # codes whose sum fits into int32
LARGEST_IMAGE = 1 << 27  # elements of the input
LARGEST_VALUE = 1 << 26  # elements of a value with its padding, or as many times those of the input as follows
LARGEST_GROWTH = 256
LARGEST_OFFSET = 1 << 31  # no value has more, whatever the input
VALUES_AT_ONCE = 32  # that large, all values of a graph together
LARGEST_KERNEL = 1 << 18  # pixels of a pool's window
LARGEST_POOLING = 1 << 36  # codes that a pool's windows read


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


def nearest_pixels(size: int, numerator: int, denominator: int, rule: str) -> np.ndarray:
    """The pixel, int64, that each pixel i of one axis takes when its size is multiplied by f = numerator / denominator.

    In exact integers: "floor", floor(i / f), is torch's mode nearest (ONNX: asymmetric, floor); "half_pixel",
    ceil((i + 0.5) / f - 1), is ONNX's half_pixel with round_prefer_floor; both at most size - 1 and at least 0.
    """
    i = np.arange(size * numerator // denominator, dtype=np.int64)
    if rule == "floor":
        return np.minimum(i * denominator // numerator, size - 1)
    return np.clip(-((2 * numerator - (2 * i + 1) * denominator) // (2 * numerator)), 0, size - 1)


def pooled_pixels(node: AvgPool, height: int, width: int) -> np.ndarray:
    """How many pixels each window of a pool averages over, int64 [H', W']."""
    counts = []
    for axis, size in enumerate((height, width)):
        kernel, stride, padding = node.kernel[axis], node.stride[axis], node.padding[axis]
        first = np.arange(window_count(size, kernel, stride, padding, 1, False), dtype=np.int64) * stride - padding
        inside = np.minimum(first + kernel, size) - np.maximum(first, 0)
        counts.append(np.full_like(first, kernel) if node.count_include_pad else inside)
    return np.outer(*counts)


def all_shapes(nodes: Iterable[Node], input_name: str, input_shape: Sequence[int]) -> dict[str, Shape]:
    """Shape of every value for an input [C, H, W]; InputError where a node's inputs do not fit, or a value is huge.

    A few bytes of a graph can ask for any amount of memory: this is the place that says no before it is taken.
    """
    image = tuple(int(size) for size in input_shape)
    if prod(image) > LARGEST_IMAGE:
        raise InputError(f"input: found the shape {list(image)}, expected at most 2^27 elements")
    largest = min(max(LARGEST_VALUE, LARGEST_GROWTH * prod(image)), LARGEST_OFFSET)
    shapes: dict[str, Shape] = {input_name: image}
    total = 0
    for node in nodes:
        inputs = [shapes[name] for name in node.inputs]
        shapes[node.name] = output_shape(node, inputs)
        used = max(prod(shapes[node.name]), _padded(node, inputs[0]))
        total += used
        if used > largest:
            raise _too_large(node, f"{used} elements with padding", largest, image)
        if total > VALUES_AT_ONCE * largest:
            raise _too_large(node, f"{total} elements in all values up to it", VALUES_AT_ONCE * largest, image)
    return shapes


def _too_large(node: Node, found: str, limit: int, image: Shape) -> InputError:
    expected = f"expected at most {limit} for an input of {list(image)}"
    return InputError(f"graph node {node.name!r}: found {found}, {expected}")


def _padded(node: Node, source: Shape) -> int:
    """Elements of a node's input with the padding that the node adds."""
    padding = getattr(node, "padding", (0, 0))
    if len(source) != 3:
        return prod(source)
    return source[0] * (source[1] + 2 * padding[0]) * (source[2] + 2 * padding[1])


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
        return (prod(source),)
    if isinstance(node, Add):
        if inputs[0] != inputs[1]:
            raise fail("two equal shapes")
        return source
    if isinstance(node, Concat):
        if any(len(shape) != len(source) or shape[1:] != source[1:] for shape in inputs):
            raise fail("shapes that differ in channels only")
        return (sum(shape[0] for shape in inputs), *source[1:])
    if isinstance(node, Conv | MaxPool | AvgPool | GlobalAvgPool | Resize | ResizeNearest) and any(
        len(shape) != 3 for shape in inputs
    ):
        raise fail("[channels, height, width]")
    if isinstance(node, GlobalAvgPool):
        if source[1] * source[2] > LARGEST_AVERAGE:
            raise fail(f"at most {LARGEST_AVERAGE} pixels")
        return (source[0], 1, 1) if node.keepdims else (source[0],)
    if isinstance(node, Resize):
        return (source[0], *inputs[1][1:])
    if isinstance(node, ResizeNearest):
        sizes = [source[1 + axis] * node.factor[2 * axis] // node.factor[2 * axis + 1] for axis in (0, 1)]
        if min(sizes) < 1:
            raise fail("a height and width of which a pixel is left")
        return (source[0], *sizes)
    if isinstance(node, Conv):
        channels = node.weight.shape[1] * node.groups
        if source[0] != channels:
            raise fail(f"{channels} channels")
        kernel, dilation, outputs = node.weight.shape[2:], node.dilation, node.weight.shape[0]
    elif isinstance(node, MaxPool):
        kernel, dilation, outputs = node.kernel, node.dilation, source[0]
    elif isinstance(node, AvgPool):
        kernel, dilation, outputs = node.kernel, (1, 1), source[0]
    else:  # Quantize, Requantize, Dequantize
        return source
    ceil = isinstance(node, MaxPool) and node.ceil_mode
    sizes = [
        window_count(source[1 + i], kernel[i], node.stride[i], node.padding[i], dilation[i], ceil) for i in range(2)
    ]
    if min(sizes) < 1:
        raise fail("a padded height and width that hold the kernel")
    area = kernel[0] * kernel[1]
    if not isinstance(node, Conv) and (area > LARGEST_KERNEL or area * outputs * prod(sizes) > LARGEST_POOLING):
        raise fail("a kernel of at most 2^18 pixels, and windows of at most 2^36 codes")
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
