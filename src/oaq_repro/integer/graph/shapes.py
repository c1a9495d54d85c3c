"""Shapes of all values of a graph, without the batch dimension, and how large they may be."""

from collections.abc import Iterable, Sequence
from math import prod

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.nodes import Node, Shape

LARGEST_IMAGE = 1 << 27  # elements of the input
LARGEST_VALUE = 1 << 26  # elements of a value with its padding, or as many times those of the input as follows
LARGEST_GROWTH = 256
LARGEST_OFFSET = 1 << 31  # no value has more, whatever the input
VALUES_AT_ONCE = 32  # that large, all values of a graph together


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
        shapes[node.name] = node.output_shape(inputs)
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
    """Elements of a node's first input with the padding that the node adds."""
    if len(source) != 3:
        return prod(source)
    top, left, bottom, right = node.padding_added
    return source[0] * (source[1] + top + bottom) * (source[2] + left + right)
