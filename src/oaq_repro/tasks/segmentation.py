"""Semantic segmentation: cross entropy on the mask, mean intersection over union."""

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from torchmetrics.classification import MulticlassJaccardIndex

from oaq_repro.models.network import Network
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule

IGNORED = 255


class SegmentationTask(Task):
    """Batches: images float32 [N, 3, H, W], masks int64 [N, H, W] with 255 for pixels that do not count.

    The logits are resized to the mask (bilinear, corners not aligned, as mmseg) before loss and metric.
    Metric `miou`: intersection over union of the pixels of all images together, then the mean over classes; a class
    that is neither in the masks nor predicted is left out of the mean.
    """

    METRIC = "miou"

    def __init__(self, network: Network, schedule: Schedule | None, classes: tuple[str, ...], **common: Any) -> None:
        super().__init__(network, schedule, classes, **common)
        self.miou = MulticlassJaccardIndex(num_classes=len(self.classes), average="macro", ignore_index=IGNORED)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy over the pixels that count; 0 where there are none."""
        total = cross_entropy(self.resize(outputs, target), target, ignore_index=IGNORED, reduction="sum")
        return total / (target != IGNORED).sum().clamp(min=1)

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Add the confusions of one batch.

        The logits in one layout: torch rounds channels-last ones otherwise, so that the integer engine's, which have
        the simulation's values, would break ties in other ways.
        """
        self.miou.update(self.resize(outputs.contiguous(), target).argmax(dim=1), target)

    def compute(self) -> dict[str, Tensor]:
        """`miou`."""
        value = self.miou.compute()
        self.miou.reset()
        return {"miou": value}

    @staticmethod
    def resize(logits: Tensor, masks: Tensor) -> Tensor:
        """Logits [N, K, h, w] at the masks' size [N, K, H, W]."""
        return interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
