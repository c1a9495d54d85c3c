"""Float to codes, codes to float, and codes at other QParams."""

from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import CodeNode, Node, Shape


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


@dataclass(frozen=True, eq=False)
class Requantize(CodeNode):
    """`clamp(rint(((q - z) * s) / s_out) + z_out, 0, q_max)`; with z_out = 0 the clamp is a ReLU."""

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return arithmetic.rescale(inputs[0], sources[0], self.output)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs
