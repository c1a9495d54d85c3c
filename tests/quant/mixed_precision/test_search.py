"""Which bits cannot overflow: against the worst codes of such grids."""

import pytest
import torch
from torch import nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.bounds import worst_case
from oaq_repro.quant.layers import QuantConv2d, QuantConvTranspose2d, QuantLinear
from oaq_repro.quant.mixed_precision.search import cannot_overflow
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.quantizers import ObserverConfig

METHOD = Int8()
MAKERS = {
    "conv": lambda *parts: QuantConv2d(nn.Conv2d(6, 4, 3), *parts, (0, 0, 0, 0)),
    "grouped": lambda *parts: QuantConv2d(nn.Conv2d(6, 4, 3, groups=2), *parts, (0, 0, 0, 0)),
    "transposed": lambda *parts: QuantConvTranspose2d(nn.ConvTranspose2d(6, 4, 3, stride=2), *parts),
    "linear": lambda *parts: QuantLinear(nn.Linear(54, 4), *parts),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "accumulator",
    [
        Accumulator(),
        Accumulator(bits=13),
        Accumulator(block=8),
        Accumulator(block=18),
        Accumulator(lanes=8),
        Accumulator(overflow="saturate", block=2),
        Accumulator(bits=32),
    ],
    ids=lambda accumulator: accumulator.name,
)
def test_it_is_the_worst_case_of_the_largest_codes(kind, accumulator):
    seen = set()
    for weight_bits in range(2, 9):
        for input_bits in range(2, 9):
            output = METHOD.activation_quantizer(8, "none", ObserverConfig(), True)
            weights = METHOD.weight_quantizer(weight_bits, True)
            layer = MAKERS[kind](weights, output, accumulator, "asked for")
            codes = torch.full_like(layer.weight, weights.largest)
            x = QParams(torch.ones(()), torch.zeros(()), torch.tensor(2.0**input_bits - 1))
            worst = float(worst_case(codes, x, accumulator, weights.meeting).max())
            seen.add(worst <= 1)
            assert cannot_overflow(layer, weight_bits, input_bits) == (worst <= 1)
    assert seen == ({True} if accumulator.bits == 32 else {True, False})
