"""INT8 with weights on a 7-bit grid: `reduce_range` of ONNX Runtime's quantizer and of torchao.

Why it exists: two products of 8-bit operands may pass 16 bits, 2 * 255 * 127 = 64770 > 32767, but with weights of at
most 64 in magnitude they cannot, 2 * 255 * 64 = 32640. So x86 kernels that add saturating pairs are exact. Longer sums
are not protected.

What the sources leave open and what is chosen here: the grid is a range mapping factor of the weights,
`(2^(bits-1) - 1) / 2^(bits-2)`, with which training and settling go on as with any other; at other widths the grid is
one bit narrower as well. The sources quantize after training (`fine_tune: false`); the default here is to fine-tune,
for a fair row beside `int8`.
"""

from dataclasses import dataclass
from typing import ClassVar

from oaq_repro.methods.base import Method
from oaq_repro.quant.quantizers import WeightQuantizer


@dataclass
class ReduceRange(Method):
    """INT8 whose weight codes are at most `2^(bits-2)` in magnitude: 64 at 8 bits."""

    sees_accumulator: ClassVar[bool] = False

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """The common quantizer, its range mapped to one bit less."""
        quantizer = WeightQuantizer(bits, per_channel)
        quantizer.alpha.fill_((2 ** (bits - 1) - 1) / 2 ** (bits - 2))
        return quantizer
