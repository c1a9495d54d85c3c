"""Channels moved into the image."""

from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro.accumulator import is_integer
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import PassingNode, Shape

LARGEST_BLOCK = 1 << 10


@dataclass(frozen=True, eq=False)
class DepthToSpace(PassingNode):
    """[C * b * b, H, W] to [C, H * b, W * b], codes and QParams unchanged.

    Channel `(c * b + i) * b + j` holds the pixels of rows i modulo b and columns j modulo b: torch.nn.PixelShuffle, and
    ONNX's DepthToSpace of mode CRD.
    """

    block: int

    def check_fields(self) -> None:
        super().check_fields()
        self.expect(is_integer(self.block) and 1 <= self.block <= LARGEST_BLOCK, "block", "an integer from 1 to 2^10")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        self.expect_images(inputs)
        (channels, height, width), area = inputs[0], self.block**2
        if channels % area:
            raise self.misfit(inputs, f"a multiple of {area} channels")
        return (channels // area, height * self.block, width * self.block)

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        n, height, width, channels = inputs[0].shape
        b = self.block
        split = inputs[0].reshape(n, height, width, channels // b**2, b, b)
        return split.transpose(0, 1, 4, 2, 5, 3).reshape(n, height * b, width * b, channels // b**2)
