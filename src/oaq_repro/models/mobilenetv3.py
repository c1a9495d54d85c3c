"""torchvision's MobileNetV3 as the backbone of torchvision's own segmenter and detector (arXiv 1905.02244)."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, MobileNet_V3_Small_Weights, mobilenetv3

from oaq_repro.errors import InputError
from oaq_repro.models.checkpoint import load_backbone
from oaq_repro.models.network import check_input_shape

MobileNetV3 = Literal["mobilenetv3_large", "mobilenetv3_small"]
MAKERS: dict[str, tuple[Callable[..., nn.Module], Any]] = {
    "mobilenetv3_large": (mobilenetv3.mobilenet_v3_large, MobileNet_V3_Large_Weights.IMAGENET1K_V1),
    "mobilenetv3_small": (mobilenetv3.mobilenet_v3_small, MobileNet_V3_Small_Weights.IMAGENET1K_V1),
}


def backbone(
    arch: MobileNetV3,
    width: float,
    input_shape: tuple[int, int, int],
    pretrained: bool,
    checkpoint: str | None,
    **fields: Any,
) -> nn.Module:
    """The classifier whose `features` are used, of `width` times the channels, with random or ImageNet weights.

    pretrained: torchvision's weights; checkpoint: a file of a classifier of torchvision's. `fields` go to torchvision
    (`dilated`, `reduced_tail`, `norm_layer`). InputError for images that are not RGB, too small ones, and for weights
    that do not fit or cannot be had.
    """
    check_input_shape(input_shape, 64, arch)
    if int(input_shape[0]) != 3:
        raise InputError(f"data.input_shape: found {input_shape[0]} channels, expected 3 as torchvision's {arch} has")
    make, weights = MAKERS[arch]
    if not pretrained:
        network = make(width_mult=width, **fields)
    elif width != 1 or fields.get("reduced_tail"):
        raise InputError(
            "model.pretrained: torchvision has no weights of this width or tail; set pretrained=false, or width=1 and "
            "reduced_tail=false"
        )
    else:
        try:
            network = make(weights=weights, **fields)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"model.pretrained: torchvision's weights of {arch} could not be loaded ({error}); go online once, or "
                "give a file: model.checkpoint=PATH (the whole network) or model.backbone_checkpoint=PATH"
            ) from error
    load_backbone(network, checkpoint)
    return network
