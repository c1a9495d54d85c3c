"""INT8 quantization-aware training in the style of TF-Lite (Jacob et al., CVPR 2018, arXiv 1712.05877).

What the source leaves open and what is chosen here: weights per output channel (the paper: per tensor; a
config field), ranges as running means of each batch's extremes, straight-through rounding, batch norm
folded once before fine-tuning rather than in every step. With `settle` it is the row `int8_settle`: the
same training, then settling alone, which shows how much of OAQ's result training with overflow adds. Without
`fine_tune` it is the row `ptq_int8`: post-training quantization with ranges from calibration.
"""

from dataclasses import dataclass
from typing import ClassVar

from oaq_repro.methods.base import Method


@dataclass
class Int8(Method):
    """Fake-quantized fine-tuning; alphas stay 1 during training."""

    sees_accumulator: ClassVar[bool] = False
