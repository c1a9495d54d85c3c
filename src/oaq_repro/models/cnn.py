"""Plain convolutional networks: 3x3 convolutions with batch norm and ReLU, an average, a linear layer."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated

from annotated_types import MinLen
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.fields import Checkpoint, Size, Text
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.models.network import Network, check_input_shape


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    channels: Annotated[Sequence[Size], MinLen(1)],
    strides: Annotated[Sequence[Size], MinLen(1)],
    affine: bool = True,
    checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A classifier: image float32 [N, C, H, W] -> logits float32 [N, num_classes].

    channels, strides: of the convolutions in order. affine: whether batch norm learns scale and shift. `checkpoint`: a
    file of this network; `checkpoint_key`: which of several state dicts in it. InputError for bad fields and files.
    """
    check_input_shape(input_shape, 4, "cnn")
    if len(channels) != len(strides):
        raise InputError(f"model.strides: found {len(strides)}, expected as many as model.channels, {len(channels)}")
    modules = convolutions(input_shape[0], channels, strides, affine)
    modules["average"], modules["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    modules["fc"] = nn.Linear(channels[-1], num_classes)
    model = nn.Sequential(modules)
    load_checkpoint(model, checkpoint, checkpoint_key)
    return Network(dense=model)


def convolutions(
    inputs: int, channels: Sequence[int], strides: Sequence[int], affine: bool = True
) -> "OrderedDict[str, nn.Module]":
    """3x3 convolutions without bias, each with batch norm and ReLU, by name."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (outputs, stride) in enumerate(zip(channels, strides, strict=True), start=1):
        modules[f"conv{number}"] = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        modules[f"bn{number}"] = nn.BatchNorm2d(outputs, affine=affine)
        modules[f"relu{number}"] = nn.ReLU()
        inputs = outputs
    return modules
