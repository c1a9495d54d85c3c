"""Float to codes and codes to float."""

from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import CodeNode, Node


@dataclass(frozen=True, eq=False)
class Quantize(CodeNode):
    """The graph's float32 input to codes: `clamp(rint(x / scale) + zero_point, 0, q_max)`, a true division."""

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return arithmetic.quantize(inputs[0], self.output)


@dataclass(frozen=True, eq=False)
class Dequantize(Node):
    """float32 `(q - zero_point) * scale` with the input's QParams: an output of the graph."""

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return arithmetic.dequantize(inputs[0], sources[0])
