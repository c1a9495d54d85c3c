"""VGG-16 for small images (configuration D of Simonyan and Zisserman, arXiv 1409.1556) with batch norm.

In the form of Ajanthan et al., ICCV 2019, for CIFAR: five stages that each halve the map, so that 32 pixels end at one;
then three linear layers, the hidden ones with 512 units.
"""

from collections import OrderedDict

from torch import nn

from oaq_repro.fields import Checkpoint, Text, Width
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.models.network import Network, check_input_shape

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions."""
HIDDEN = 512
SMALLEST = 2 ** len(STAGES)


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    width: Width = 1.0,
    affine: bool = True,
    checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A classifier: image float32 [N, C, H, W] -> logits float32 [N, num_classes]; larger maps are averaged.

    width: factor of all channels and hidden units. affine: whether batch norm learns scale and shift. `checkpoint`: a
    file of this network; `checkpoint_key`: which of several state dicts in it. InputError for bad fields and files.
    """
    check_input_shape(input_shape, SMALLEST, "vgg")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = input_shape[0]
    for stage, (channels, count) in enumerate(STAGES, start=1):
        outputs = max(1, round(width * channels))
        for number in range(1, count + 1):
            modules[f"conv{stage}_{number}"] = nn.Conv2d(inputs, outputs, 3, padding=1)
            modules[f"bn{stage}_{number}"] = nn.BatchNorm2d(outputs, affine=affine)
            modules[f"relu{stage}_{number}"] = nn.ReLU()
            inputs = outputs
        modules[f"pool{stage}"] = nn.MaxPool2d(2)
    modules["average"], modules["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    hidden = max(1, round(width * HIDDEN))
    for number, before in enumerate((inputs, hidden), start=1):
        modules[f"fc{number}"] = nn.Linear(before, hidden)
        modules[f"fc{number}_bn"] = nn.BatchNorm1d(hidden, affine=affine)
        modules[f"fc{number}_relu"] = nn.ReLU()
    modules["fc3"] = nn.Linear(hidden, num_classes)
    model = nn.Sequential(modules)
    load_checkpoint(model, checkpoint, checkpoint_key)
    return Network(dense=model)
