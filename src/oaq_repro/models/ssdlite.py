"""SSDLite on MobileNetV3, torchvision's own (arXiv 1801.04381, 1905.02244): the dense part; boxes: `ssd_codec`."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.ssdlite import SSDLiteHead

from oaq_repro.fields import Checkpoint, Count, Fraction, Text, Width
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.models.mobilenetv3 import MobileNetV3, backbone
from oaq_repro.models.network import Network
from oaq_repro.models.ssd_codec import SsdCodec
from oaq_repro.models.torchvision_private import extractor, normal_init

LEVELS, STAGES = 6, 6
ASPECT_RATIOS, MIN_RATIO, MAX_RATIO = (2.0, 3.0), 0.2, 0.95


class SsdliteDense(nn.Module):
    """Backbone with extra levels and head convolutions; submodules carry torchvision's names.

    forward: image float32 [N, 3, H, W] -> (cls_0, reg_0, cls_1, reg_1, ...) as `SsdDense`.
    """

    def __init__(self, levels: nn.Module, anchors: list[int], labels: int, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.backbone = levels
        with torch.no_grad():  # as torchvision finds the levels' channels
            levels.eval()
            channels = [feature.shape[1] for feature in levels(torch.zeros(1, 3, 64, 64)).values()]
            levels.train()
        self.head = SSDLiteHead(channels, anchors, labels, norm)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.backbone(image)
        kinds = (self.head.classification_head.module_list, self.head.regression_head.module_list)
        return tuple(kind[at](features[str(at)]) for at in range(LEVELS) for kind in kinds)


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    arch: MobileNetV3 = "mobilenetv3_large",
    width: Width = 1.0,
    reduced_tail: bool = True,
    bn_momentum: Fraction = 0.03,
    score_threshold: Fraction = 0.001,
    nms_threshold: Fraction = 0.55,
    detections_per_image: Count = 300,
    candidates: Count = 300,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A detector of `num_classes` foreground classes; see `SsdliteDense` and `SsdCodec`.

    `reduced_tail` halves the channels of the backbone's last stage (torchvision does so where the backbone is not
    pretrained). The defaults are torchvision's. `pretrained` and `backbone_checkpoint` fill the backbone with ImageNet
    weights (torchvision's, a file of a torchvision classifier), `checkpoint` the whole network, torchvision's files
    too. Raises InputError for bad fields and files.
    """
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=bn_momentum)
    fields = {"norm_layer": norm, "reduced_tail": reduced_tail}
    features = backbone(arch, width, input_shape, pretrained, backbone_checkpoint, **fields)
    if not pretrained and backbone_checkpoint is None:
        normal_init(features)
    codec = SsdCodec(
        labels=num_classes + 1,
        image_size=(int(input_shape[1]), int(input_shape[2])),
        aspect_ratios=[ASPECT_RATIOS] * LEVELS,
        min_ratio=MIN_RATIO,
        max_ratio=MAX_RATIO,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections_per_image=detections_per_image,
        candidates=candidates,
    )
    levels = extractor(features, STAGES, norm)
    dense = SsdliteDense(levels, codec.anchors_per_cell, num_classes + 1, norm)
    load_checkpoint(dense, checkpoint, checkpoint_key)
    return Network(dense, codec)
