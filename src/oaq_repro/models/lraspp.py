"""LR-ASPP on MobileNetV3, torchvision's own (arXiv 1905.02244, section 6.4)."""

from typing import Any

from torch import Tensor, nn

from oaq_repro.fields import Checkpoint, Text, Width
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.models.mobilenetv3 import MobileNetV3, backbone
from oaq_repro.models.network import Network
from oaq_repro.models.torchvision_private import segmenter


class LrasppDense(nn.Module):
    """The network without its last resize, which is the task's; submodules carry torchvision's names.

    forward: image float32 [N, 3, H, W] -> mask logits float32 [N, classes, H / 8, W / 8].
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.backbone, self.classifier = whole.backbone, whole.classifier

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.backbone(image))


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    arch: MobileNetV3 = "mobilenetv3_large",
    width: Width = 1.0,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A segmenter of `num_classes` classes; see `LrasppDense`.

    `pretrained` and `backbone_checkpoint` fill the backbone with ImageNet weights (torchvision's, a file of a
    torchvision classifier), `checkpoint` the whole network, torchvision's files too. Raises InputError for bad fields
    and files.
    """
    features = backbone(arch, width, input_shape, pretrained, backbone_checkpoint, dilated=True)
    dense = LrasppDense(segmenter(features, num_classes))
    load_checkpoint(dense, checkpoint, checkpoint_key)
    return Network(dense)
