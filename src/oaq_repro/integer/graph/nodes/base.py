"""What every operator of an integer graph says of itself; the operators derive from it, one file each.

A node's value is a tensor of uint8 codes, `real = scale * (code - zero_point)`, under the node's name; only the graph's
input and the values of `Dequantize` are float32. The arithmetic of each operator stands at its class and is exact to
the bit: float operations are IEEE float32 in the order written, without fma; `rint` rounds half to even.
Sources: ONNX QLinearConv and QuantizeLinear (convolution, quantization); the other operators' arithmetic is our choice.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import numpy as np

from oaq_repro.accumulator import is_integer
from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.windows import Sides, four_sides
from oaq_repro.requantization import REQUANTIZATIONS, Requantization

Shape = tuple[int, ...]  # without the batch dimension
LARGEST_PARAMETER = 1 << 20  # of strides, padding, dilation and kernels; the kernel has the same limit
SMALLEST_SCALE, LARGEST_SCALE = 2.0**-60, 2.0**60  # no float32 operation can make a NaN of codes then


@dataclass(frozen=True, eq=False)
class Node(ABC):
    """A frozen value that holds an operator's constants. Fields are what a graph file keeps, arrays apart.

    inputs_count: names in `inputs`; None for one or more.
    """

    inputs_count: ClassVar[int | None] = 1
    name: str
    inputs: tuple[str, ...]

    def check(self) -> None:
        """Fields and constants by themselves; InputError names node and field."""
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"graph: node name: found {self.name!r}, expected a string that is not empty")
        strings = isinstance(self.inputs, tuple) and all(isinstance(name, str) for name in self.inputs)
        self.expect(strings and len(self.inputs) >= 1, "inputs", "a tuple of names")
        if self.inputs_count is not None:
            self.expect(len(self.inputs) == self.inputs_count, "inputs", f"{self.inputs_count} names")
        self.check_fields()

    def check_fields(self) -> None:  # noqa: B027  (many have none)
        """Those of the operator."""

    def check_sources(self, sources: Sequence[QParams]) -> None:  # noqa: B027
        """Constants that have to agree with the QParams of the inputs, which are values of codes; InputError."""

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        """Shape of the value from the inputs' shapes (all without batch); InputError where they do not fit."""
        return inputs[0]

    def rank(self, source: int) -> int:
        """Dimensions of the value, batch included, for a first input of `source` dimensions."""
        return source

    @property
    def padding_added(self) -> Sides:
        """Pixels that the operator adds at the top, left, bottom and right of its first input."""
        return (0, 0, 0, 0)

    @property
    def border(self) -> Sides:
        """Those of `padding_added` that the engine's step expects in memory, with the code zero_point."""
        return (0, 0, 0, 0)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...] | None:
        """Names of the inputs whose order of channels the value shares, whatever it is.

        () where the operator can be made to read any order and write any other (`permuted`); None where channels of
        inputs and value have to stay as they are.
        """
        return None

    def permuted(self, before: Array | None, after: Array | None) -> Self:
        """The node for inputs and a value whose channels were put in these orders (None: as they were)."""
        return self

    @abstractmethod
    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        """The value, from the inputs' values [N, H, W, C] or [N, K] and their QParams."""

    def expect(self, holds: bool, field: str, expected: str) -> None:
        """InputError about a field unless it holds."""
        if not holds:
            raise InputError(f"graph node {self.name!r}: {field}: found {getattr(self, field)!r}, expected {expected}")

    def expect_array(self, field: str, dtype: type, shape: tuple[int | None, ...]) -> None:
        """InputError unless a field is an array of that type and shape (None: any size), not empty."""
        value, name = getattr(self, field), np.dtype(dtype).name
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"graph node {self.name!r}: {field}: found {type(value).__name__}, expected a {name} array"
            )
        wanted = "[" + ", ".join("n" if size is None else str(size) for size in shape) + "]"
        fits = len(value.shape) == len(shape) and all(w in (None, s) for w, s in zip(shape, value.shape, strict=True))
        if value.dtype != dtype or not fits or value.size == 0:
            found = f"{value.dtype} {list(value.shape)}"
            raise InputError(f"graph node {self.name!r}: {field}: found {found}, expected {name} {wanted}, not empty")

    def expect_flag(self, field: str) -> None:
        """InputError unless a field is a bool."""
        self.expect(isinstance(getattr(self, field), bool), field, "true or false")

    def expect_pairs(self, *fields: str) -> None:
        """InputError unless these fields are two integers each, of at least 1."""
        for field in fields:
            value = getattr(self, field)
            right = isinstance(value, tuple) and len(value) == 2
            right = right and all(is_integer(v) and 1 <= v <= LARGEST_PARAMETER for v in value)
            self.expect(right, field, "two integers from 1 to 2^20")

    def misfit(self, inputs: Sequence[Shape], expected: str) -> InputError:
        """About inputs of other shapes than expected."""
        found = " and ".join(str(list(shape)) for shape in inputs)
        return InputError(f"graph node {self.name!r}: found an input [C, ...] of shape {found}, expected {expected}")

    def expect_images(self, inputs: Sequence[Shape]) -> None:
        """InputError unless the inputs are [C, H, W]."""
        if any(len(shape) != 3 for shape in inputs):
            raise self.misfit(inputs, "[channels, height, width]")


@dataclass(frozen=True, eq=False)
class CodeNode(Node):
    """A node whose value is codes with the QParams `output`."""

    output: QParams

    def check_fields(self) -> None:
        q = self.output
        self.expect(
            isinstance(q, QParams) and isinstance(q.scale, np.float32), "output", "QParams with a float32 scale"
        )
        self.expect(bool(SMALLEST_SCALE <= q.scale <= LARGEST_SCALE), "output", "a scale from 2^-60 to 2^60")
        self.expect(is_integer(q.q_max) and 1 <= q.q_max <= 255, "output", "q_max from 1 to 255")
        self.expect(is_integer(q.zero_point) and 0 <= q.zero_point <= q.q_max, "output", "zero_point from 0 to q_max")


@dataclass(frozen=True, eq=False)
class RoundingNode(CodeNode):
    """A node whose codes are rounded from integers that are not codes: `requantization` says how."""

    _: KW_ONLY
    requantization: Requantization = "float32"

    def check_fields(self) -> None:
        super().check_fields()
        self.expect(self.requantization in REQUANTIZATIONS, "requantization", f"one of {', '.join(REQUANTIZATIONS)}")


class Padded(Node):
    """A node with a field `padding` of top, left, bottom, right; two numbers are both ends of height and of width."""

    padding: Sides

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", four_sides(self.padding))

    def expect_padding(self) -> None:
        """InputError unless it is four integers of at least 0."""
        right = isinstance(self.padding, tuple) and len(self.padding) == 4
        right = right and all(is_integer(v) and 0 <= v <= LARGEST_PARAMETER for v in self.padding)
        self.expect(right, "padding", "two or four integers from 0 to 2^20")

    @property
    def padding_added(self) -> Sides:
        return self.padding


@dataclass(frozen=True, eq=False)
class PassingNode(CodeNode):
    """A node whose codes are some of its first input's, or between them: QParams are unchanged."""

    def check_sources(self, sources: Sequence[QParams]) -> None:
        if self.output != sources[0]:
            raise InputError(
                f"graph node {self.name!r}: output: found {self.output}, expected its input's, {sources[0]}"
            )
