"""What a tensor of a QDQ model stands for in the integer graph: codes, or a float that is still to be quantized.

A QuantizeLinear gives the operation before it its output's QParams. Codes of the model and of the graph differ by an
offset: int8 codes are shifted by 128, and codes that a Relu or Clip before the QuantizeLinear excludes are cut off,
so that every value of the graph has codes from 0 to q_max. Both are exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.reader import OnnxNode

OFFSETS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}  # the smallest code of each type


@dataclass(frozen=True)
class Codes:
    """A tensor of codes: code of the model, uint8 or int8, = code of the graph's node + offset."""

    node: str
    offset: int
    dtype: Any


@dataclass(frozen=True, eq=False)
class Pending:
    """An operation whose result is not quantized yet; `build(name, output)` makes the graph's node."""

    origin: OnnxNode
    build: Callable[[str, ir.QParams], ir.Node]


@dataclass(frozen=True, eq=False)
class Function:
    """What is computed in float from the codes of one node: float32 [256], for every code; `origin` did it."""

    origin: OnnxNode
    values: Array


@dataclass(frozen=True, eq=False)
class Real:
    """A float tensor: the value of a node of the graph, or a pending one, clamped to [low, high]; or a function of it.

    A function has no bounds beside it.
    """

    source: str | Pending
    low: float = -np.inf
    high: float = np.inf
    function: Function | None = None

    def unquantized(self) -> OnnxNode | None:
        """The node that computed it in float, where no node of the graph has such codes."""
        if self.function is not None:
            return self.function.origin
        return self.source.origin if isinstance(self.source, Pending) else None

    def is_plain(self) -> bool:
        """Whether it is the value of a node of the graph as it is."""
        return self.unquantized() is None and (self.low, self.high) == (-np.inf, np.inf)


@dataclass(frozen=True)
class SplitChannels:
    """A tensor [N, g, C / g, H, W], or with these two swapped: the channels of `source`, split into `sizes`."""

    source: str
    sizes: tuple[int, ...]
    swapped: bool = False


def expect_quantized(real: Real) -> None:
    """InputError about the node that computed it in float, unless a node of the graph has its codes."""
    origin = real.unquantized()
    if origin is not None:
        raise origin.error("found a float result that is not quantized, expected a QuantizeLinear")


def clamped(node: OnnxNode, q: ir.QParams, real: Real) -> tuple[ir.QParams, int]:
    """QParams of the codes that [low, high] leaves of `q`, and the first of these codes."""

    def code(bound: float) -> int:
        with np.errstate(over="ignore"):
            scaled = np.rint(np.float32(bound) / q.scale) + np.float32(q.zero_point)
        return int(np.clip(scaled, 0, q.q_max))

    low, high = code(real.low), code(real.high)
    return cut(node, q, low, high), low


def cut(node: OnnxNode, q: ir.QParams, low: int, high: int) -> ir.QParams:
    """QParams of the codes from `low` to `high` alone, counted from `low` on."""
    if not low <= q.zero_point <= high or low == high:
        last = f"[{low}, {high}] of {q.q_max + 1}, with the zero point {q.zero_point}"
        raise node.error(f"found a clamp to the codes {last}; expected one that holds 0 and several codes")
    return ir.QParams(q.scale, q.zero_point - low, high - low)
