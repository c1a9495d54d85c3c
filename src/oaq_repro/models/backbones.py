"""timm networks by family and width, shared by the classifiers and the detectors' and segmenters' backbones.

Width is timm's channel multiplier for the MobileNets (arXiv 1704.04861, 1801.04381: the head of a narrow MobileNetV2
keeps 1280 channels) and scales the four stages of a ResNet (its stem keeps 64 channels).
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import timm
from timm.models import efficientnet
from torch import nn

from oaq_repro.errors import InputError

Stem = Literal["imagenet", "small"]
MobileNet = Literal["mobilenetv1", "mobilenetv2"]
Arch = MobileNet | Literal["resnet18", "resnet34", "resnet50"]
MOBILENETS: dict[str, Callable[..., nn.Module]] = {
    "mobilenetv1": efficientnet._gen_mobilenet_v1,
    "mobilenetv2": efficientnet._gen_mobilenet_v2,
}
RESNET_CHANNELS = (64, 128, 256, 512)
SMALL_MAP = 4  # the small stem ends at a map of about this side


def create(
    arch: Arch, width: float, num_classes: int, in_chans: int, pretrained: bool = False, **fields: Any
) -> nn.Module:
    """One timm network; `num_classes=0` leaves the classifier out. `fields` go to timm (for example `norm_layer`).

    Raises InputError for a width without published weights when `pretrained`, and where they cannot be downloaded.
    """
    fields |= {"num_classes": num_classes, "in_chans": in_chans}
    if arch not in MOBILENETS:
        name, published = str(arch), width == 1
        if not published:
            fields["channels"] = tuple(max(8, 8 * round(c * width / 8)) for c in RESNET_CHANNELS)
    else:
        name = f"{arch}_{round(100 * width):03d}"
        published = timm.is_model(name) and round(100 * width) == 100 * width
    if not pretrained and arch in MOBILENETS:
        # timm's factories of named widths do not take another multiplier; their common generator does.
        return MOBILENETS[arch](f"{arch}_100", width, **fields)
    if not pretrained:
        return timm.create_model(name, **fields)
    if not published or not timm.models.is_model_pretrained(name):
        raise InputError(f"model.pretrained: timm has no weights of {arch} at width {width}; set pretrained=false")
    return with_weights(name, **fields)


def with_weights(name: str, **fields: Any) -> nn.Module:
    """A timm network with timm's weights of it; InputError where they cannot be had."""
    if not timm.models.is_model_pretrained(name):
        raise InputError(f"model.pretrained: timm has no weights of {name}; set pretrained=false")
    try:
        return timm.create_model(name, pretrained=True, **fields)
    except Exception as error:  # the hub raises its own, requests', httpx' and OS errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model.pretrained: timm's weights of {name} could not be loaded ({reason}); go online once, or give a "
            "file: model.checkpoint=PATH (the whole network) or model.backbone_checkpoint=PATH (a timm classifier)"
        ) from error


def shrink_stem(model: nn.Module, side: int, pretrained: bool) -> None:
    """Set stride-2 stages to stride 1, in place, so that an input of `side` pixels ends at a map of about 4x4.

    The stages that stay at stride 2 are spread evenly over the depth. A ResNet's 7x7 stem and max pooling become one
    3x3 convolution (the CIFAR form of arXiv 1512.03385, section 4.2, with ImageNet's stages); in the MobileNets only
    strides change, so that ImageNet weights still fit.
    """
    if isinstance(model, timm.models.resnet.ResNet):
        if pretrained:
            raise InputError("model.stem: found 'small' with pretrained weights of a ResNet (7x7 stem); use 'imagenet'")
        old = model.get_submodule("conv1")
        assert isinstance(old, nn.Conv2d)
        stem = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", stem)
        model.set_submodule("maxpool", nn.Identity())
        stages = [_strided(model.get_submodule(name)) for name in ("layer2", "layer3", "layer4")]
    else:
        stages = [[conv] for conv in _strided(model)]
    halvings = min(len(stages), max(0, round(math.log2(side / SMALL_MAP))))
    kept = {(i + 1) * len(stages) // (halvings + 1) for i in range(halvings)}
    for i, stage in enumerate(stages):
        for conv in stage if i not in kept else ():
            conv.stride = (1, 1)


def drop_affine(model: nn.Module) -> None:
    """Take scale and shift from every batch norm, in place."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.affine = False
            for name in ("weight", "bias"):
                norm.register_parameter(name, None)


def _strided(module: nn.Module) -> list[nn.Conv2d]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
