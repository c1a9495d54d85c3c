"""COCO: detection and segmentation from instances_*.json and train2017/, val2017/, or any folder of that layout."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision import tv_tensors

from oaq_repro.data import coco_masks
from oaq_repro.data.base import DataModule
from oaq_repro.data.coco_file import Instances, read_instances
from oaq_repro.data.detection import Annotated, BoxCollector, DetectionData, DetectionSamples, say_repairs
from oaq_repro.data.fields import unexpected
from oaq_repro.data.images import IGNORE, read_annotated
from oaq_repro.data.loading import Samples
from oaq_repro.data.reading import require_folder
from oaq_repro.data.segmentation import SegmentationData
from oaq_repro.data.voc import VOC_CLASSES
from oaq_repro.fields import Whole

CATEGORIES = 80
NO_PIXELS = "annotations without pixels, dropped"
VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "dining table": "diningtable",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}
"""COCO's names of VOC's classes, where they differ."""


class CocoFiles(DataModule):
    """What both tasks share: the two annotation files."""

    @property
    def benchmark(self) -> str | None:  # type: ignore[override]
        """COCO itself, not a folder of its layout with other classes."""
        return "coco" if self.counts.get("categories", CATEGORIES) == CATEGORIES else None

    def instances(self) -> tuple[Instances, Instances]:
        """Read both files; InputError where they name other categories."""
        root = require_folder(self.root)
        train, val = read_instances(root, "train"), read_instances(root, "val")
        self.counts = {"train2017: images": len(train.images), "val2017: images": len(val.images)}
        self.counts["categories"] = len(train.categories)
        if train.categories != val.categories:
            raise unexpected(f"{val.path}: categories", f"other ids or names than in {train.path.name}", "the same")
        return train, val


class CocoDetection(CocoFiles, DetectionData):
    """COCO detection: trains on train2017, holds out val2017. Labels are 1..n in the order of the category ids."""

    def read(self) -> tuple[DetectionSamples, DetectionSamples]:
        """Read both annotation files."""
        train, val = self.instances()
        return self.split(self.root, tuple(train.categories.values()), self._records(train), self._records(val))

    def _records(self, instances: Instances) -> list[Annotated]:
        labels = {category: position for position, category in enumerate(instances.categories, start=1)}
        records = []
        for image in instances.images:
            boxes = BoxCollector(instances.path, image.size, instances.repairs)
            for item in instances.objects.get(image.id, ()):
                area = item.area(image.size, instances.repairs)
                boxes.add(f"{item.place}: bbox", item.box(), labels[item.category], item.is_crowd(), area)
            records.append(boxes.finish(image.path, image.id))
        say_repairs(instances.repairs, records)
        return records


class CocoMaskSamples(Samples):
    """Images whose class map is drawn from instances; what two claim is ignored (as in torchvision's reference)."""

    def __init__(self, classes: tuple[str, ...], path: Path, files: list[tuple[Path, bytes]]) -> None:
        super().__init__(classes, len(files))
        self.path, self.files = path, files

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return image and class map uint8 of the same size."""
        path, packed = self.files[index]
        annotation = json.loads(packed)
        size = (annotation["size"][0], annotation["size"][1])
        image = read_annotated(path, size, self.path.name)
        class_map = np.zeros(size, dtype=np.uint8)
        claims = np.zeros(size, dtype=np.uint16)
        for label, segmentation, name in annotation["instances"]:
            mask = coco_masks.draw(segmentation, size, f"{self.path}: annotation {name}: segmentation")
            class_map[mask] = label
            claims += mask
        class_map[claims > 1] = IGNORE
        return image, tv_tensors.Mask(torch.from_numpy(class_map))

    def identity(self, index: int) -> bytes:
        """File name and instances."""
        path, packed = self.files[index]
        return os.fsencode(path.name) + b"\0" + packed

    def seen(self) -> set[int]:
        """Background, and the classes of the instances."""
        seen = {0}
        for index in self.indices:
            seen.update(label for label, _, _ in json.loads(self.files[index][1])["instances"])
            if len(seen) == len(self.classes):
                break
        return seen


class CocoSegmentation(CocoFiles, SegmentationData):
    """COCO segmentation: VOC's 21 classes (`classes: voc`, the usual subset), or background and all categories (`all`).

    Training images whose wanted instances cover at most `min_area` pixels are left out (torchvision's reference: 1000).
    """

    def __init__(self, *, classes: Literal["voc", "all"] = "voc", min_area: Whole = 1000, **common: Any) -> None:
        super().__init__(**common)
        self.which, self.min_area = classes, min_area

    def read(self) -> tuple[CocoMaskSamples, CocoMaskSamples]:
        """Read both annotation files."""
        train, val = self.instances()
        if self.which == "all":
            names: tuple[str, ...] = ("background", *train.categories.values())
            labels = {category: position for position, category in enumerate(train.categories, start=1)}
        else:
            names = ("background", *VOC_CLASSES)
            renamed = {category: VOC_NAMES.get(name, name) for category, name in train.categories.items()}
            labels = {category: names.index(name) for category, name in renamed.items() if name in VOC_CLASSES}
            if len(labels) != len(VOC_CLASSES):
                raise unexpected(
                    f"{train.path}: categories", f"{len(labels)} of VOC's 20 classes", "all (or data.classes=all)"
                )
        parts = [self._files(train, labels, self.min_area), self._files(val, labels, None)]
        if not parts[0]:
            raise unexpected(train.path, "no image of the wanted classes", f"one with more than {self.min_area} pixels")
        return CocoMaskSamples(names, train.path, parts[0]), CocoMaskSamples(names, val.path, parts[1])

    def _files(self, instances: Instances, labels: dict[int, int], min_area: int | None) -> list[tuple[Path, bytes]]:
        files, repairs = [], instances.repairs
        for image in instances.images:
            drawn, area = [], 0.0
            for item in instances.objects.get(image.id, ()):
                if item.category not in labels:
                    continue
                segmentation = item.segmentation(image.size, repairs)
                if segmentation is None:
                    repairs.count(NO_PIXELS, item.place)
                    continue
                if min_area is not None:
                    area += item.area(image.size, repairs, segmentation) or 0.0
                drawn.append((labels[item.category], segmentation, item.entry.get("id")))
            if min_area is None or area > min_area:
                # packed to bytes: hundreds of thousands of small objects would be copied into every worker process
                packed = json.dumps({"size": list(image.size), "instances": drawn}).encode()
                files.append((image.path, packed))
        repairs.say()
        return files
