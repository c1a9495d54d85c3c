"""What every builder in this room returns."""

from dataclasses import dataclass

import torch
from torch import nn

from oaq_repro.errors import InputError


@dataclass
class Network:
    """A network split where quantization ends.

    dense: image float32 [N, C, H, W] -> one tensor, or a tuple of tensors. Traces with `torch.fx`
        (leaves: `torch.nn` modules and timm's `BatchNormAct2d`); the part that is quantized and lowered.
    codec: what turns a detector's raw maps into boxes and a loss, in float, outside the quantized part;
        None for classification and segmentation.

    Weights lie with channels last in memory: a step of training takes three quarters of the time on a CPU.
    """

    dense: nn.Module
    codec: nn.Module | None = None

    def __post_init__(self) -> None:
        """Lay out the weights."""
        self.dense.to(memory_format=torch.channels_last)


def check_input_shape(input_shape: tuple[int, int, int], smallest: int, architecture: str) -> None:
    """Raise InputError unless `input_shape` is (channels, height, width) with both sides at least `smallest`."""
    shape = tuple(int(n) for n in input_shape)
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < smallest:
        raise InputError(
            f"data.input_shape: found {shape}, expected (channels, height, width) of at least "
            f"{smallest}x{smallest} pixels for model {architecture}"
        )
