"""DeepLabV3 on MobileNetV2 from mmsegmentation: the only file that knows mmseg, which is imported on first use.

The network is mmseg's own configuration (mobilenet-v2-d8_deeplabv3, output stride 8), with what a quantized copy
needs changed: SyncBN becomes BN, no download at construction, no auxiliary head (it exists in training only and
would not be part of the deployed network; our choice). Loss, resizing to the mask and metrics are the task's.
"""

import math
import sys
import warnings
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen, MinLen
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.fields import Checkpoint, OpenFraction, Size, Width
from oaq_repro.models.backbones import create
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint, load_weights
from oaq_repro.models.network import Network, check_input_shape

CONFIG = ".mim/configs/mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py"
STAGES = 7
"""Of MobileNetV2."""
PerStage = Annotated[tuple[Size, ...], MinLen(STAGES), MaxLen(STAGES)]


class DeepLabDense(nn.Module):
    """Backbone and ASPP head; submodules carry mmseg's names, so that its checkpoints fit.

    forward: image float32 [N, 3, H, W] -> mask logits float32 [N, classes, H / s, W / s] at the output stride s.
    """

    def __init__(self, backbone: nn.Module, decode_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.decode_head = decode_head

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self.decode_head([self.backbone(image)])


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    width: Width = 1.0,
    stages: Annotated[int, Ge(1), Le(STAGES)] = STAGES,
    strides: PerStage = (1, 2, 2, 1, 1, 1, 1),
    dilations: PerStage = (1, 1, 1, 2, 2, 4, 4),
    channels: Size = 512,
    aspp_dilations: Annotated[tuple[Size, ...], MinLen(1)] = (1, 12, 24, 36),
    dropout: OpenFraction = 0.1,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
) -> Network:
    """A segmenter of `num_classes` classes; see `DeepLabDense`.

    `stages`: how many of MobileNetV2's seven stages the backbone has; fewer train faster from random weights on small
    images. `strides` and `dilations` are of all seven, `channels` and `aspp_dilations` of the ASPP head.
    `pretrained` and `backbone_checkpoint` fill the backbone with the weights of timm's MobileNetV2 (the same
    layers), `checkpoint` the whole network. Raises InputError for bad fields and files, and when mmsegmentation
    is not installed.
    """
    check_input_shape(input_shape, 32, "deeplabv3_mobilenetv2")
    if int(input_shape[0]) != 3:
        raise InputError(f"data.input_shape: found {input_shape[0]} channels, expected 3 as mmseg's MobileNetV2 has")
    registry, config = _mmseg()
    norm = {"type": "BN", "requires_grad": True}
    body = {"widen_factor": width, "strides": tuple(strides), "dilations": tuple(dilations), "norm_cfg": norm}
    body["out_indices"] = (stages - 1,)
    head = {"channels": channels, "dilations": tuple(aspp_dilations), "dropout_ratio": dropout, "norm_cfg": norm}
    head["in_index"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about mmseg's own loss, which every decode head builds and we do not use
        backbone = registry.build(config.backbone | body)
        for name in backbone.layers[stages:]:
            delattr(backbone, name)
        del backbone.layers[stages:]
        inputs = getattr(backbone, backbone.layers[-1])[-1].conv[-1].conv.out_channels
        decode_head = registry.build(config.decode_head | head | {"in_channels": inputs, "num_classes": num_classes})
    # mmcv's ConvModule has initialised itself (Kaiming, fan out), but counts a depthwise convolution's fan out over
    # all channels: weights 10 times too small, so that Adam's steps are 10 times too large for them.
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.weight.data *= math.sqrt(module.groups)
    # mmseg starts the last convolution at a standard deviation of 0.01, which suits pretrained backbones; without
    # one, the classes are hardly told apart for hundreds of steps.
    decode_head.conv_seg.reset_parameters()
    if pretrained or backbone_checkpoint is not None:
        _copy_backbone(backbone, width, pretrained, backbone_checkpoint)
    dense = DeepLabDense(backbone, decode_head)
    load_checkpoint(dense, checkpoint)
    return Network(dense)


def _copy_backbone(backbone: nn.Module, width: float, pretrained: bool, path: str | None) -> None:
    """Fill mmseg's MobileNetV2 from timm's: the same layers in the same order under other names."""
    source = create("mobilenetv2", width, 0, 3, pretrained, global_pool="")
    load_backbone(source, path)
    values = list(source.state_dict().values())
    renamed = dict(zip(backbone.state_dict(), values, strict=False))  # timm's list goes on with the classifier's 1x1
    load_weights(backbone, renamed, f"backbone_checkpoint {path}" if path else "model.pretrained")


@cache
def _mmseg() -> tuple[Any, Any]:
    """mmseg's registry of modules and the model section of its configuration file."""
    try:
        if find_spec("mmcv._ext") is None:
            sys.modules["mmcv._ext"] = _NoKernels("mmcv._ext")
        import_module("mmseg.models")  # registers the modules
        from mmengine.config import Config
        from mmseg.registry import MODELS
    except (ImportError, AssertionError) as error:  # mmseg asserts the versions of mmcv and mmengine
        raise InputError(
            f"model: DeepLabV3 needs mmsegmentation ({error}); install this project's extra 'segmentation'"
        ) from error
    path = Path(import_module("mmseg").__file__ or "").parent / CONFIG
    if not path.is_file():
        raise InputError(f"model: {path} is not there, expected mmsegmentation 1.2's configurations beside its package")
    return MODELS, Config.fromfile(path).model


class _NoKernels(ModuleType):
    """Stands for mmcv's compiled operators, which mmcv-lite lacks and mmseg imports; none is used by DeepLabV3."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # importlib.util.find_spec reads it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise RuntimeError(f"mmcv operator {name} is not compiled in mmcv-lite")

        return missing
