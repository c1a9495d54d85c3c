"""Default boxes, loss, decoding and non-maximum suppression of SSD, in float: torchvision's, fed with raw maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD, SSDScoringHead
from torchvision.ops import box_iou

Targets = Sequence[dict[str, Tensor]]


class SsdCodec(nn.Module):
    """What turns the raw maps (cls_0, reg_0, cls_1, reg_1, ...) of `SsdDense` into a loss or into boxes.

    It holds a `torchvision.models.detection.SSD` without a network and calls its matcher, `compute_loss` and
    `postprocess_detections` (arXiv 1512.02325: matching by jaccard overlap above 0.5, hard negatives 3 : 1,
    smooth L1 on offsets with variances 0.1 and 0.2). No parameters.

    labels: number of classes with the background (label 0). image_size: (height, width) of the network's input.
    """

    def __init__(
        self,
        labels: int,
        image_size: tuple[int, int],
        aspect_ratios: Sequence[Sequence[float]],
        min_ratio: float,
        max_ratio: float,
        score_threshold: float,
        nms_threshold: float,
        detections_per_image: int,
        candidates: int,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        # torchvision's permute and reshape, without its convolutions
        identities = nn.ModuleList(nn.Identity() for _ in aspect_ratios)
        self.to_logits = SSDScoringHead(identities, labels)
        self.to_offsets = SSDScoringHead(identities, 4)
        self.ssd = SSD(
            backbone=nn.Identity(),
            anchor_generator=DefaultBoxGenerator([list(r) for r in aspect_ratios], min_ratio, max_ratio),
            size=(image_size[1], image_size[0]),
            num_classes=labels,
            head=nn.Identity(),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections_per_image,
            topk_candidates=candidates,
        )

    @property
    def anchors_per_cell(self) -> list[int]:
        """Default boxes per cell of each level."""
        return self.ssd.anchor_generator.num_anchors_per_location()

    def heads(self, maps: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Logits [N, boxes, labels] and offsets [N, boxes, 4] by torchvision's names, and default boxes per image."""
        classification, regression = list(maps[0::2]), list(maps[1::2])
        outputs = {"cls_logits": self.to_logits(classification), "bbox_regression": self.to_offsets(regression)}
        n = len(maps[0])
        shape_only = torch.empty((n, 3, *self.image_size), device="meta")
        anchors = self.ssd.anchor_generator(ImageList(shape_only, [self.image_size] * n), classification)
        return outputs, anchors

    def loss(self, maps: Sequence[Tensor], targets: Targets) -> Tensor:
        """Sum of classification and box loss, a scalar.

        targets: per image `boxes` float32 [M, 4] (x1, y1, x2, y2 in pixels of the input), `labels` int64 [M] in
        1..labels-1, `iscrowd` [M]. Boxes marked iscrowd and boxes without area are left out: no default box is
        matched to them (our choice; torchvision has no box that is ignored).
        """
        outputs, anchors = self.heads(maps)
        kept: list[dict[str, Tensor]] = []
        matches: list[Tensor] = []
        for target, boxes in zip(targets, anchors, strict=True):
            area = (target["boxes"][:, 2:] - target["boxes"][:, :2]).clamp(min=0).prod(1)
            keep = (target["iscrowd"] == 0) & (area > 0)
            kept.append({"boxes": target["boxes"][keep], "labels": target["labels"][keep]})
            if keep.any():
                matches.append(self.ssd.proposal_matcher(box_iou(kept[-1]["boxes"], boxes)))
            else:
                matches.append(torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device))
        losses = self.ssd.compute_loss(kept, outputs, anchors, matches)
        return losses["bbox_regression"] + losses["classification"]

    def decode(self, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections per image: `boxes` float32 [D, 4] in pixels of the input, `scores` [D], `labels` int64 [D]."""
        outputs, anchors = self.heads(maps)
        return self.ssd.postprocess_detections(outputs, anchors, [self.image_size] * len(maps[0]))
