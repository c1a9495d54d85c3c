"""A code for every code: a function of one value, element by element."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph import arithmetic
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import CodeNode, Shape


@dataclass(frozen=True, eq=False)
class Lookup(CodeNode):
    """`table[q]`."""

    @abstractmethod
    def codes(self, source: QParams) -> Array:
        """The table, uint8 [256], for codes of these QParams."""

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return self.codes(sources[0])[inputs[0]]

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return self.inputs


@dataclass(frozen=True, eq=False)
class Requantize(Lookup):
    """`clamp(rint(((q - z) * s) / s_out) + z_out, 0, q_max)`; with z_out = 0 the clamp is a ReLU."""

    def codes(self, source: QParams) -> Array:
        return arithmetic.rescaling_table(source, self.output)


@dataclass(frozen=True, eq=False)
class Elementwise(Lookup):
    """`table[q]`, table uint8 [256]: any function of one number (hardswish, sigmoid), computed when the graph was made.

    That is `clamp(rint(f((q - z) * s) / s_out) + z_out, 0, q_max)` in the float32 arithmetic of whoever made it, which
    no one has to repeat: f differs in the last bit from one library to another, and a tie would become another code.
    """

    table: np.ndarray

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_array("table", np.uint8, (256,))
        if self.table.max() > self.output.q_max:
            raise InputError(f"graph node {self.name!r}: table: found {self.table.max()}, expected at most q_max")

    def codes(self, source: QParams) -> Array:
        return self.table
