"""Detection: annotated images, checked boxes, and the data module that VOC, COCO and the scenes share."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from oaq_repro.data import transforms
from oaq_repro.data.base import DataModule, Transform
from oaq_repro.data.fields import unexpected
from oaq_repro.data.images import read_annotated
from oaq_repro.data.loading import Samples
from oaq_repro.data.notes import Repairs
from oaq_repro.fields import Fraction

BORDER = 1.0
"""Pixels that a box may stand out of its image without a word (rounding of real annotations); it is clipped."""
EMPTY = "boxes without width or height, dropped"
CLIPPED = "boxes that reach out of their images, clipped"
CLIPPED_SHARE, CLIPPED_LEAST = 0.01, 5
"""More clipped boxes than this share of a file's, and than this number, are no slips but other images' coordinates."""


@dataclass(frozen=True, slots=True)
class Annotated:
    """One image and its boxes in pixels of the original image."""

    path: Path
    image_id: int
    size: tuple[int, int]  # height, width
    boxes: np.ndarray  # float32 [M, 4], xyxy, half-open: (0, 0, width, height) is the whole image
    labels: np.ndarray  # int64 [M], 1 is the first class
    ignored: np.ndarray  # uint8 [M], VOC difficult or COCO crowd
    area: np.ndarray  # float32 [M], of the object's mask where known, else of the box

    def trainable(self) -> "Annotated":
        """Return the same without ignored boxes."""
        keep = self.ignored == 0
        rows = (self.boxes[keep], self.labels[keep], self.ignored[keep], self.area[keep])
        return Annotated(self.path, self.image_id, self.size, *rows)


class BoxCollector:
    """Collects the boxes of one image and checks each: it is taken, repaired (and counted), or one InputError.

    `where` is the file, `place` the image in it where the file is that of many.
    """

    def __init__(self, where: object, size: tuple[int, int], repairs: Repairs, place: str = "") -> None:
        self.where, self.size, self.repairs, self.place = where, size, repairs, place
        self.rows: list[tuple[float, float, float, float]] = []
        self.labels: list[int] = []
        self.ignored: list[int] = []
        self.areas: list[float] = []

    def add(
        self, field: str, box: tuple[float, float, float, float], label: int, ignored: bool, area: float | None
    ) -> None:
        """Add a half-open xyxy box.

        One that reaches out of the image is clipped; an empty one is dropped. An inverted box, and one that has
        nothing in the image, are errors.
        """
        height, width = self.size
        place = f"{self.place}{field}"
        x0, y0, x1, y1 = box
        where, found = f"{self.where}: {field}", f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        if not np.isfinite(box).all() or x1 < x0 or y1 < y0:
            raise unexpected(where, found, "finite numbers with the smaller corner first")
        outside = min(x0, y0) < -BORDER or x1 > width + BORDER or y1 > height + BORDER
        if outside and (x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height):
            raise unexpected(where, found, f"it inside the image of {width}x{height} pixels")
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        if x1 <= x0 or y1 <= y0:
            self.repairs.count(EMPTY, place)
            return
        inside = (x1 - x0) * (y1 - y0)
        if outside:
            self.repairs.count(CLIPPED, place)
            area = None if area is None else min(area, inside)
        self.rows.append((x0, y0, x1, y1))
        self.labels.append(label)
        self.ignored.append(int(ignored))
        self.areas.append(inside if area is None else area)

    def finish(self, path: Path, image_id: int) -> Annotated:
        """Return the image with its boxes."""
        return Annotated(
            path,
            image_id,
            self.size,
            np.array(self.rows, dtype=np.float32).reshape(-1, 4),
            np.array(self.labels, dtype=np.int64),
            np.array(self.ignored, dtype=np.uint8),
            np.array(self.areas, dtype=np.float32),
        )


def say_repairs(repairs: Repairs, records: list[Annotated]) -> None:
    """Say what was repaired in the boxes of one file; InputError where too many had to be clipped."""
    total = sum(len(record.labels) for record in records)
    repairs.limit(CLIPPED, total, CLIPPED_SHARE, CLIPPED_LEAST, "coordinates in pixels of the images as they are there")
    repairs.say()


class DetectionSamples(Samples):
    """Annotated images of one split."""

    def __init__(self, classes: tuple[str, ...], records: list[Annotated]) -> None:
        super().__init__(classes, len(records))
        self.records = records

    def load(self, index: int) -> tuple[tv_tensors.Image, dict[str, Any]]:
        """Return the image and the target of the contract, boxes in original pixels. Image size is checked."""
        record = self.records[index]
        image = read_annotated(record.path, record.size, "its annotation")
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes.copy()), format="XYXY", canvas_size=record.size)
        return image, {
            "boxes": boxes,
            "labels": torch.from_numpy(record.labels.copy()),
            "image_id": record.image_id,
            "size": record.size,
            "iscrowd": torch.from_numpy(record.ignored.copy()),
            "area": torch.from_numpy(record.area.copy()),
        }

    def identity(self, index: int) -> bytes:
        """File name, size, boxes, labels, flags, areas."""
        record = self.records[index]
        head = json.dumps([record.path.name, record.image_id, record.size, len(record.labels)]).encode()
        arrays = (record.boxes, record.labels, record.ignored, record.area)
        return head + b"".join(array.tobytes() for array in arrays)

    def seen(self) -> set[int]:
        """Classes of the boxes."""
        return set().union(*((self.records[index].labels - 1).tolist() for index in self.indices))


class DetectionData(DataModule):
    """Batches (images float32 [N, 3, S, S], targets) for an SSD of one square input size.

    Targets: boxes float32 [M, 4] xyxy in pixels of the resized image, labels int64 [M] in 1..len(classes),
    image_id, size (h, w) of the original image, iscrowd uint8 [M] (VOC difficult or COCO crowd: in evaluation only,
    training never sees them), area float32 [M] in original pixels (of the object's mask where known).
    Images without a box to train on are no training samples (as in torchvision's reference);
    random crops may still leave an image without boxes.
    """

    task = "detection"

    def __init__(
        self,
        *,
        photometric: bool = True,
        zoom_out: Fraction = 0.5,
        iou_crop: bool = True,
        flip: Fraction = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.augmentation: dict[str, Any] = {
            "photometric": photometric,
            "zoom_out": zoom_out,
            "iou_crop": iou_crop,
            "flip": flip,
        }

    def split(
        self, where: Path | None, classes: tuple[str, ...], train: list[Annotated], val: list[Annotated]
    ) -> tuple[DetectionSamples, DetectionSamples]:
        """Make the two splits; InputError where nothing is left to train on."""
        usable = [record for record in (record.trainable() for record in train) if len(record.labels)]
        if not usable:
            raise unexpected(where, "no training image with a box", "at least one")
        return DetectionSamples(classes, usable), DetectionSamples(classes, val)

    def transform(self, train: bool) -> Transform:
        """SSD's augmentation, or the resize alone."""
        return transforms.detection(self.size, train, mean=self.mean, std=self.std, **self.augmentation)

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Stack the images, list the targets."""
        images, targets = zip(*samples, strict=True)
        return torch.stack(images), list(targets)
