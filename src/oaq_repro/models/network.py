"""What every builder in this room returns."""

from dataclasses import dataclass

from torch import nn

from oaq_repro.errors import InputError


@dataclass
class Network:
    """A network split where quantization ends.

    dense: image float32 [N, C, H, W] -> one tensor, or a tuple of tensors. Traces with `torch.fx`
        (leaves: `torch.nn` modules and timm's `BatchNormAct2d`); the part that is quantized and lowered.
    codec: what turns a detector's raw maps into boxes and a loss, in float, outside the quantized part;
        None for classification and segmentation.
    """

    dense: nn.Module
    codec: nn.Module | None = None


def check_input_shape(input_shape: tuple[int, int, int], smallest: int, architecture: str) -> None:
    """Raise InputError unless `input_shape` is (channels, height, width) with both sides at least `smallest`."""
    shape = tuple(int(n) for n in input_shape)
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < smallest:
        raise InputError(
            f"data.input_shape: found {shape}, expected (channels, height, width) of at least "
            f"{smallest}x{smallest} pixels for model {architecture}"
        )
