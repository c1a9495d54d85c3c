"""Multilayer perceptrons: linear layers, each but the last with batch norm and a ReLU behind it.

LeNet-300-100 (LeCun et al. 1998, section III.C.5, with batch norm as in Ajanthan et al., ICCV 2019) has 300 and 100
hidden units; the jet classifier of Hawks et al. 2021 64, 32 and 32.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated

from annotated_types import MinLen
from torch import nn

from oaq_repro.fields import Checkpoint, Size, Text
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.models.network import Network, check_input_shape


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    hidden: Annotated[Sequence[Size], MinLen(1)],
    affine: bool = True,
    checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A classifier: image float32 [N, C, H, W] -> logits float32 [N, num_classes].

    hidden: units of the hidden layers, in order. affine: whether batch norm learns scale and shift. `checkpoint`: a
    file of this network; `checkpoint_key`: which of several state dicts in it. InputError for bad fields and files.
    """
    check_input_shape(input_shape, 1, "mlp")
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(pairwise([prod(input_shape), *hidden]), start=1):
        modules[f"fc{number}"] = nn.Linear(inputs, outputs)
        modules[f"bn{number}"] = nn.BatchNorm1d(outputs, affine=affine)
        modules[f"relu{number}"] = nn.ReLU()
    modules[f"fc{len(hidden) + 1}"] = nn.Linear(hidden[-1], num_classes)
    model = nn.Sequential(modules)
    load_checkpoint(model, checkpoint, checkpoint_key)
    return Network(dense=model)
