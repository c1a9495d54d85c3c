"""Object detection: the codec's loss, COCO's mean average precision and VOC's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from oaq_repro.errors import InputError
from oaq_repro.models.network import Network
from oaq_repro.models.ssd_codec import SsdCodec
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule
from oaq_repro.tasks.voc_ap import VocAveragePrecision


class DetectionTask(Task):
    """Batches: images float32 [N, 3, H, W]; per image a dict.

    `boxes` float32 [M, 4] (x1, y1, x2, y2 in pixels of the network's input), `labels` int64 [M] from 1, `iscrowd`
    [M] (not trained on, ignored in evaluation) and `size` (height, width of the original image).
    Metrics by pycocotools (101 recall points, at most 100 detections per image), in original pixels:
    `map50` at IoU 0.5 and `map`, the mean over IoU 0.50:0.05:0.95. With `voc` (data of VOC's format) also the devkit's
    `voc_ap` and `voc07_ap`, of all detections, with `iscrowd` as VOC's difficult (see `VocAveragePrecision`).
    """

    METRIC = "map50"
    codec: SsdCodec

    def __init__(
        self, network: Network, schedule: Schedule | None, classes: tuple[str, ...], voc: bool = False, **common: Any
    ) -> None:
        super().__init__(network, schedule, classes, **common)
        if network.codec is None:
            raise InputError("model: found a network without boxes for task detection, expected an SSD (model=ssd...)")
        self.map = MeanAveragePrecision(box_format="xyxy", iou_type="bbox", backend="pycocotools")
        self.map.warn_on_many_detections = False  # COCO's limit of 100 per image is meant
        self.voc = VocAveragePrecision(len(self.classes)) if voc else None

    def loss(self, outputs: Sequence[Tensor], target: Sequence[dict[str, Any]]) -> Tensor:
        """Classification and box loss, see `SsdCodec.loss`."""
        return self.codec.loss(outputs, target)

    def update(self, outputs: Sequence[Tensor], target: Sequence[dict[str, Any]]) -> None:
        """Decode, scale boxes and ground truth to the original image, and keep them."""
        height, width = self.codec.image_size
        found, truth = [], []
        for detection, wanted in zip(self.codec.decode(outputs), target, strict=True):
            h, w = (float(n) for n in wanted["size"])
            scale = torch.tensor([w / width, h / height] * 2, device=detection["boxes"].device)
            found.append({**detection, "boxes": detection["boxes"] * scale})
            ignored = wanted["iscrowd"].to(torch.int64)
            truth.append({"boxes": wanted["boxes"] * scale, "labels": wanted["labels"], "iscrowd": ignored})
        self.map.update(found, truth)
        if self.voc is not None:
            self.voc.update(found, truth)

    def compute(self) -> dict[str, Tensor]:
        """`map50` and `map`, 0 instead of COCO's -1 where there is nothing to find; VOC's where they are asked for."""
        result = self.map.compute()
        self.map.reset()
        metrics = {"map50": result["map_50"].clamp(min=0), "map": result["map"].clamp(min=0)}
        if self.voc is not None:
            metrics |= self.voc.compute()
            self.voc.reset()
        return metrics
