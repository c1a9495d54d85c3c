"""SSD and SSDLite on timm's MobileNets: the dense part (backbone, extra levels, head convolutions).

Default boxes, loss and non-maximum suppression are torchvision's own, see `ssd_codec`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import MinLen
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import Conv2dNormActivation

from oaq_repro.errors import InputError
from oaq_repro.fields import Checkpoint, Count, Fraction, Positive, Size, Width
from oaq_repro.models.backbones import MobileNet, create
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint
from oaq_repro.models.network import Network, check_input_shape
from oaq_repro.models.ssd_codec import SsdCodec

Head = Literal["ssd", "ssdlite"]
EXTRA_CHANNELS = (512, 256, 256, 128)  # of the levels after the backbone, in SSD and in SSDLite
Ratios = Annotated[tuple[Positive, ...], MinLen(1)]


class SsdDense(nn.Module):
    """Backbone, extra levels and head convolutions of a detector.

    forward: image float32 [N, C, H, W] -> (cls_0, reg_0, cls_1, reg_1, ...), raw maps, the finest level first:
    cls_i [N, anchors[i] * labels, h_i, w_i] and reg_i [N, anchors[i] * 4, h_i, w_i].

    A level on a map that the backbone goes on from is the expansion of the next stage's first block (MobileNetV2;
    arXiv 1801.04381, section 6.2) or the map itself (MobileNetV1 has no expansion); the next one is the end of the
    backbone; the others are stride-2 blocks.
    """

    def __init__(
        self,
        backbone: nn.Module,
        first_stride: int,
        anchors: Sequence[int],
        labels: int,
        head: Head,
        width: float,
        momentum: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.segments, channels = _segments(backbone, first_stride)
        if not len(channels) <= len(anchors) <= len(channels) + len(EXTRA_CHANNELS):
            raise InputError(
                f"model.levels: found {len(anchors)}, expected {len(channels)} (the backbone's from stride "
                f"{first_stride}) to {len(channels) + len(EXTRA_CHANNELS)}"
            )
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=momentum)
        self.extra = nn.ModuleList()
        for wanted in EXTRA_CHANNELS[: len(anchors) - len(channels)]:
            outputs = max(16, int(wanted * width))
            self.extra.append(_extra_block(channels[-1], outputs, head, norm))
            channels.append(outputs)
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.03)  # as torchvision's SSDLite
        if head == "ssdlite":
            heads: nn.Module = SSDLiteHead(channels, list(anchors), labels, norm)
        else:
            heads = SSDHead(channels, list(anchors), labels)
        self.classification = nn.ModuleList(heads.get_submodule("classification_head.module_list").children())
        self.regression = nn.ModuleList(heads.get_submodule("regression_head.module_list").children())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features, x = [], image
        for names in self.segments:
            for name in names:
                x = self.backbone.get_submodule(name)(x)
            features.append(x)
        for block in self.extra:
            x = block(x)
            features.append(x)
        maps: list[Tensor] = []
        for classify, regress, feature in zip(self.classification, self.regression, features, strict=True):
            maps += [classify(feature), regress(feature)]
        return tuple(maps)


def _segments(backbone: Any, first_stride: int) -> tuple[list[list[str]], list[int]]:
    """Names of the backbone's modules between two levels, in order, and the channels of each level."""
    segments: list[list[str]] = [["conv_stem", "bn1"]]
    channels: list[int] = []
    stride = 2
    for i, stage in enumerate(backbone.get_submodule("blocks").children()):
        for j, block in enumerate(stage.children()):
            name = f"blocks.{i}.{j}"
            if block.conv_dw.stride == (1, 1):
                segments[-1].append(name)
                continue
            expands = hasattr(block, "conv_pwl")
            if stride < first_stride:
                segments[-1].append(name)
            elif expands:
                segments[-1] += [f"{name}.conv_pw", f"{name}.bn1"]
                channels.append(block.conv_pw.out_channels)
                segments.append([f"{name}.{part}" for part in ("conv_dw", "bn2", "conv_pwl", "bn3")])
            else:
                channels.append(block.conv_dw.in_channels)
                segments.append([name])
            stride *= 2
    if isinstance(backbone.conv_head, nn.Conv2d):
        segments[-1] += ["conv_head", "bn2"]
    channels.append(backbone.num_features)
    return segments, channels


def _extra_block(inputs: int, outputs: int, head: Head, norm: Callable[..., nn.Module]) -> nn.Sequential:
    """1x1 to half the channels, then a 3x3 of stride 2, depthwise and followed by a 1x1 in SSDLite (torchvision)."""
    half = outputs // 2
    conv = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    if head == "ssd":
        return nn.Sequential(conv(inputs, half, kernel_size=1), conv(half, outputs, kernel_size=3, stride=2))
    depthwise = conv(half, half, kernel_size=3, stride=2, groups=half)
    return nn.Sequential(conv(inputs, half, kernel_size=1), depthwise, conv(half, outputs, kernel_size=1))


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    arch: MobileNet = "mobilenetv2",
    head: Head = "ssdlite",
    width: Width = 1.0,
    first_stride: Literal[8, 16] = 16,
    levels: Size = 6,
    aspect_ratios: Ratios = (2, 3),
    min_ratio: Fraction = 0.2,
    max_ratio: Fraction = 0.95,
    bn_momentum: Fraction = 0.03,
    score_threshold: Fraction = 0.01,
    nms_threshold: Fraction = 0.45,
    detections_per_image: Count = 200,
    candidates: Count = 400,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
) -> Network:
    """A detector of `num_classes` foreground classes; see `SsdDense` and `SsdCodec` for what goes in and comes out.

    `levels` maps from stride `first_stride` on, with default boxes from `min_ratio` to `max_ratio` of the image's
    side and aspect ratios 1, r and 1/r. `pretrained` and `backbone_checkpoint` fill the backbone with ImageNet
    weights (timm's, a file), `checkpoint` the whole dense part. Raises InputError for bad fields and files.
    """
    if min_ratio > max_ratio:
        raise InputError(f"model.min_ratio, model.max_ratio: found {min_ratio} and {max_ratio}, expected min <= max")
    check_input_shape(input_shape, 64, f"{arch} with head {head}")
    codec = SsdCodec(
        labels=num_classes + 1,
        image_size=(int(input_shape[1]), int(input_shape[2])),
        aspect_ratios=[list(aspect_ratios)] * levels,
        min_ratio=min_ratio,
        max_ratio=max_ratio,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections_per_image=detections_per_image,
        candidates=candidates,
    )
    norm = partial(nn.BatchNorm2d, momentum=bn_momentum)
    backbone = create(arch, width, 0, int(input_shape[0]), pretrained, norm_layer=norm, global_pool="")
    load_backbone(backbone, backbone_checkpoint)
    dense = SsdDense(backbone, first_stride, codec.anchors_per_cell, num_classes + 1, head, width, bn_momentum)
    load_checkpoint(dense, checkpoint)
    return Network(dense, codec)
