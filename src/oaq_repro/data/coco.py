"""COCO: detection and segmentation from instances_*.json and train2017/, val2017/, or any folder of that layout."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision import tv_tensors

from oaq_repro.data.checks import require_folder, unexpected
from oaq_repro.data.detection import Annotated, BoxCollector, DetectionData, DetectionSamples, warn_dropped
from oaq_repro.data.images import IGNORE, read_image
from oaq_repro.data.loading import Samples
from oaq_repro.data.segmentation import SegmentationData
from oaq_repro.data.voc import VOC_CLASSES

VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "dining table": "diningtable",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}
"""COCO's names of VOC's classes, where they differ."""


@dataclass(frozen=True)
class Instances:
    """A checked instances_*.json: images by id, their annotations, and category id -> name in ascending order."""

    path: Path
    images: dict[int, dict[str, Any]]
    annotations: dict[int, list[dict[str, Any]]]
    categories: dict[int, str]


def read_instances(root: Path, split: str) -> tuple[Instances, Path]:
    """Read annotations/instances_<split>2017.json and check its ids; return it and the folder of images.

    Raises InputError for broken json, a missing field, an annotation of no image or category, an absent image.
    """
    path, folder = root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"
    content = load_instances(path)
    categories = {
        _field(c, "id", int, path, "categories"): _field(c, "name", str, path, "categories")
        for c in content["categories"]
    }
    images: dict[int, dict[str, Any]] = {}
    present = {file.name for file in require_folder(folder, "the images of COCO's layout").iterdir()}
    for image in content["images"]:
        for key, kind in (("id", int), ("file_name", str), ("width", int), ("height", int)):
            _field(image, key, kind, path, "images")
        if image["file_name"] not in present:
            raise unexpected(f"{folder / image['file_name']}", "no such file", f"image {image['id']} of {path.name}")
        images[image["id"]] = image
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in content["annotations"]:
        where = f"annotation {item.get('id', '?')}" if isinstance(item, dict) else "annotations"
        for key, known in (("image_id", images), ("category_id", categories)):
            value = _field(item, key, int, path, where)
            if value not in known:
                raise unexpected(f"{path}: {where}: {key}", value, f"an id that {key.split('_')[0]} entries have")
        annotations[item["image_id"]].append(item)
    if not images:
        raise unexpected(f"{path}: images", "an empty list", "at least one image")
    return Instances(path, images, annotations, dict(sorted(categories.items()))), folder


def load_instances(path: Path) -> dict[str, list[Any]]:
    """Return the three lists of an instances_*.json, unchecked; InputError where the file or a list is missing."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise unexpected(path, "no such file", "COCO's instances annotations") from None
    except (ValueError, OSError) as error:
        raise unexpected(path, f"broken json ({error})", "COCO's instances annotations") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise unexpected(f"{path}: {key}", "no such list", "the three lists images, annotations, categories")
    return content


def _field(entry: Any, key: str, kind: type, path: Path, where: str) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise unexpected(f"{path}: {where}: {key}", f"{value!r}", f"{'an integer' if kind is int else 'a text'}")
    return value


def check_categories(train: Instances, val: Instances) -> None:
    """InputError where the two files name other categories."""
    if train.categories != val.categories:
        raise unexpected(f"{val.path}: categories", f"other ids or names than in {train.path.name}", "the same")


class CocoDetection(DetectionData):
    """COCO detection: trains on train2017, holds out val2017. Labels are 1..n in the order of the category ids."""

    def read(self) -> tuple[DetectionSamples, DetectionSamples]:
        """Read both annotation files."""
        root = require_folder(self.root)
        (train, train_folder), (val, val_folder) = read_instances(root, "train"), read_instances(root, "val")
        check_categories(train, val)
        return self.split(
            root, tuple(train.categories.values()), self._records(train, train_folder), self._records(val, val_folder)
        )

    def _records(self, instances: Instances, folder: Path) -> list[Annotated]:
        labels = {category: position for position, category in enumerate(instances.categories, start=1)}
        records, dropped = [], 0
        for image_id, image in instances.images.items():
            boxes = BoxCollector(str(instances.path), (image["height"], image["width"]))
            for item in instances.annotations.get(image_id, ()):
                field = f"annotation {item.get('id', '?')}"
                box = item.get("bbox")
                if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
                    raise unexpected(f"{instances.path}: {field}: bbox", f"{box!r}", "[x, y, width, height]")
                x, y, width, height = box
                area = item.get("area")
                xyxy = (x, y, x + width, y + height)
                boxes.add(f"{field}: bbox", xyxy, labels[item["category_id"]], bool(item.get("iscrowd", 0)), area)
            records.append(boxes.finish(folder / image["file_name"], image_id))
            dropped += boxes.dropped
        warn_dropped(instances.path, dropped)
        return records


class CocoMaskSamples(Samples):
    """Images whose class map is drawn from instances; what two claim is ignored (as in torchvision's reference)."""

    def __init__(self, classes: tuple[str, ...], path: Path, files: list[tuple[Path, bytes]]) -> None:
        super().__init__(classes, len(files))
        self.path, self.files = path, files

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return image and class map uint8 of the same size."""
        path, packed = self.files[index]
        image = read_image(path)
        annotation = json.loads(packed)
        found, expected = (image.shape[1], image.shape[2]), tuple(annotation["size"])
        if found != expected:
            raise unexpected(
                path, f"{found[1]}x{found[0]} pixels", f"{expected[1]}x{expected[0]} as {self.path.name} says"
            )
        class_map = np.zeros(found, dtype=np.uint8)
        claims = np.zeros(found, dtype=np.uint16)
        for label, segmentation, name in annotation["instances"]:
            mask = self._decode(segmentation, found, name)
            class_map[mask] = label
            claims += mask
        class_map[claims > 1] = IGNORE
        return image, tv_tensors.Mask(torch.from_numpy(class_map))

    def _decode(self, segmentation: Any, size: tuple[int, int], name: Any) -> np.ndarray:
        height, width = size
        try:
            if isinstance(segmentation, list):
                encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation["counts"], list):
                encoded = coco_mask.frPyObjects(segmentation, height, width)
            else:
                encoded = segmentation
            mask = coco_mask.decode(encoded).astype(bool)
        except Exception as error:  # the C code of pycocotools raises bare Exception
            raise unexpected(
                f"{self.path}: annotation {name}: segmentation", f"{type(error).__name__} ({error})", "polygons or RLE"
            ) from None
        if mask.shape != size:
            raise unexpected(f"{self.path}: annotation {name}: segmentation", f"RLE of {mask.shape}", size)
        return mask

    def identity(self, index: int) -> bytes:
        """File name and instances."""
        path, packed = self.files[index]
        return path.name.encode() + b"\0" + packed


class CocoSegmentation(SegmentationData):
    """COCO segmentation: VOC's 21 classes (`classes: voc`, the usual subset), or background and all categories (`all`).

    Training images whose wanted instances cover at most `min_area` pixels are left out (torchvision's reference: 1000).
    """

    def __init__(self, *, classes: str = "voc", min_area: int = 1000, **common: Any) -> None:
        super().__init__(**common)
        if classes not in ("voc", "all"):
            raise unexpected("data.classes", f"{classes!r}", "voc or all")
        self.which, self.min_area = classes, min_area

    def read(self) -> tuple[CocoMaskSamples, CocoMaskSamples]:
        """Read both annotation files."""
        root = require_folder(self.root)
        (train, train_folder), (val, val_folder) = read_instances(root, "train"), read_instances(root, "val")
        check_categories(train, val)
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
        parts = [self._files(train, train_folder, labels, self.min_area), self._files(val, val_folder, labels, None)]
        if not parts[0]:
            raise unexpected(train.path, "no image of the wanted classes", f"one with more than {self.min_area} pixels")
        return CocoMaskSamples(names, train.path, parts[0]), CocoMaskSamples(names, val.path, parts[1])

    def _files(
        self, instances: Instances, folder: Path, labels: dict[int, int], min_area: int | None
    ) -> list[tuple[Path, bytes]]:
        files = []
        for image_id, image in instances.images.items():
            wanted = [item for item in instances.annotations.get(image_id, ()) if item["category_id"] in labels]
            if min_area is not None and sum(item.get("area") or 0 for item in wanted) <= min_area:
                continue
            drawn = [(labels[item["category_id"]], item.get("segmentation"), item.get("id")) for item in wanted]
            # packed to bytes: hundreds of thousands of small objects would be copied into every worker process
            packed = json.dumps({"size": [image["height"], image["width"]], "instances": drawn}).encode()
            files.append((folder / image["file_name"], packed))
        return files
