"""Pascal VOC: detection and segmentation from VOCdevkit, or from any folder of that layout."""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oaq_repro.data.checks import index_by_stem, read_list, require_folder, unexpected
from oaq_repro.data.detection import Annotated, BoxCollector, DetectionData, DetectionSamples, warn_dropped
from oaq_repro.data.segmentation import MaskFile, MaskFileSamples, SegmentationData

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
YEARS = {"07": ("VOC2007",), "12": ("VOC2012",), "07+12": ("VOC2007", "VOC2012")}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class VocSplit:
    """A folder with JPEGImages, Annotations, ... and the name of one of its ImageSets."""

    folder: Path
    name: str

    def ids(self, kind: str) -> list[str]:
        """Return the image names in ImageSets/<kind>/<name>.txt."""
        return read_list(self.folder / "ImageSets" / kind / f"{self.name}.txt")


def is_voc_folder(root: Path) -> bool:
    """Whether `root` itself (not a VOCdevkit in it) has VOC's layout."""
    return (root / "JPEGImages").is_dir() or (root / "ImageSets").is_dir()


def devkit_folder(root: Path, name: str) -> Path:
    """Return the folder VOC2007 or VOC2012 under `root` or its VOCdevkit; InputError where both are absent."""
    for folder in (root / "VOCdevkit" / name, root / name):
        if folder.is_dir():
            return folder
    raise unexpected(
        f"data.root={root}",
        f"neither VOCdevkit/{name} nor {name} in it",
        "the unpacked VOC benchmark, or a folder with JPEGImages, Annotations and ImageSets",
    )


def read_annotation(path: Path, image: Path, image_id: int, classes: dict[str, int]) -> tuple[Annotated, int]:
    """Read one xml; return the record and the number of dropped empty boxes.

    VOC counts pixels from 1 and includes the last one, so (xmin, ymin, xmax, ymax) becomes the half-open
    (xmin - 1, ymin - 1, xmax, ymax), as in Detectron2. A box with xmax == xmin is taken for a slip and dropped.
    """
    root = parse_xml(path)
    size = int(_number(root, "size/height", path)), int(_number(root, "size/width", path))
    if min(size) < 1:
        raise unexpected(f"{path}: size", f"{size[1]}x{size[0]}", "at least 1x1 pixels")
    boxes = BoxCollector(str(path), size)
    for position, item in enumerate(root.findall("object"), start=1):
        field = f"object {position}"
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise unexpected(f"{path}: {field}/name", f"{name or 'nothing'!r}", f"one of {', '.join(classes)}")
        x0, y0, x1, y1 = (_number(item, f"bndbox/{side}", path, field) for side in ("xmin", "ymin", "xmax", "ymax"))
        if x0 == x1 or y0 == y1:
            boxes.dropped += 1
            continue
        if x0 > x1 or y0 > y1:
            raise unexpected(f"{path}: {field}/bndbox", f"({x0:g}, {y0:g}, {x1:g}, {y1:g})", "min below max")
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        boxes.add(f"{field}/bndbox", (x0 - 1, y0 - 1, x1, y1), classes[name], difficult, None)
    return boxes.finish(image, image_id), boxes.dropped


def parse_xml(path: Path) -> ET.Element:
    """Return the root of an xml file; InputError where it is missing or broken."""
    try:
        return ET.parse(path).getroot()
    except FileNotFoundError:
        raise unexpected(path, "no such file", "the VOC annotation of an image in ImageSets") from None
    except (ET.ParseError, OSError, ValueError) as error:
        raise unexpected(path, f"broken xml ({error})", "a VOC annotation") from None


def _number(node: ET.Element, field: str, path: Path, prefix: str = "") -> float:
    name = f"{prefix}/{field}" if prefix else field
    text = node.findtext(field)
    if text is None:
        raise unexpected(f"{path}: {name}", "no such field", "a number")
    try:
        return float(text)
    except ValueError:
        raise unexpected(f"{path}: {name}", f"{text.strip()!r}", "a number") from None


def classes_in(splits: Sequence[VocSplit]) -> tuple[str, ...]:
    """Return the names of all objects in the annotations of these splits, sorted."""
    names: set[str] = set()
    for split in splits:
        for name in split.ids("Main"):
            root = parse_xml(split.folder / "Annotations" / f"{name}.xml")
            names.update(text.strip() for text in (item.findtext("name") for item in root.findall("object")) if text)
    if not names:
        raise unexpected(f"{splits[0].folder}/Annotations", "no named object", "at least one class")
    return tuple(sorted(names))


class VocDetection(DetectionData):
    """VOC detection as the field does it, or a folder of VOC's layout.

    `year` 07, 12 or 07+12 names the trainval sets to train on; held out is the test set of 2007 (the labels of
    2012's are not public). Where `root` itself has VOC's layout, `year` has no meaning: it trains on
    ImageSets/Main/train and holds out val, with the classes found there unless `classes` fixes them.
    """

    def __init__(self, *, year: str = "07+12", classes: Sequence[str] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.year, self.fixed_classes = check_year(year), None if classes is None else tuple(classes)

    def sources(self) -> tuple[list[VocSplit], list[VocSplit]]:
        """Return the splits to train on and to hold out."""
        root = require_folder(self.root)
        if is_voc_folder(root):
            return [VocSplit(root, "train")], [VocSplit(root, "val")]
        train = [VocSplit(devkit_folder(root, name), "trainval") for name in YEARS[self.year]]
        return train, [VocSplit(devkit_folder(root, "VOC2007"), "test")]

    def read(self) -> tuple[DetectionSamples, DetectionSamples]:
        """Read all annotations of both splits."""
        train, val = self.sources()
        classes = self.fixed_classes
        if classes is None:
            classes = classes_in([*train, *val]) if train[0].folder == self.root else VOC_CLASSES
        return self.split(self.root, classes, self._records(train, classes), self._records(val, classes))

    def _records(self, splits: list[VocSplit], classes: tuple[str, ...]) -> list[Annotated]:
        labels = {name: position for position, name in enumerate(classes, start=1)}
        records: list[Annotated] = []
        for split in splits:
            images = index_by_stem(split.folder / "JPEGImages", IMAGE_SUFFIXES)
            dropped = 0
            for name in split.ids("Main"):
                if name not in images:
                    raise unexpected(
                        f"{split.folder}/JPEGImages/{name}.jpg", "no such file", f"an image of {split.name}.txt"
                    )
                annotation = split.folder / "Annotations" / f"{name}.xml"
                record, empty = read_annotation(annotation, images[name], len(records), labels)
                records.append(record)
                dropped += empty
            warn_dropped(split.folder / "ImageSets" / "Main" / f"{split.name}.txt", dropped)
        return records


class VocSegmentation(SegmentationData):
    """VOC segmentation: 21 classes with background, masks with 255 as void.

    From VOCdevkit it trains on ImageSets/Segmentation/<train_set> of `year` and holds out <val_set>. DeepLab's protocol
    with the extra annotations of SBD is `train_set: trainaug, masks: SegmentationClassAug`, where the user has put them
    there. A folder of VOC's layout is read in the same way; `classes` (with the background) replaces VOC's.
    """

    def __init__(
        self,
        *,
        year: str = "12",
        train_set: str = "train",
        val_set: str = "val",
        masks: str = "SegmentationClass",
        classes: Sequence[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.year, self.train_set, self.val_set, self.masks = check_year(year), train_set, val_set, masks
        self.class_names = ("background", *VOC_CLASSES) if classes is None else tuple(classes)

    def sources(self) -> tuple[list[VocSplit], list[VocSplit]]:
        """Return the splits to train on and to hold out."""
        root = require_folder(self.root)
        folders = [root] if is_voc_folder(root) else [devkit_folder(root, name) for name in YEARS[self.year]]
        return [VocSplit(folder, self.train_set) for folder in folders], [
            VocSplit(folder, self.val_set) for folder in folders
        ]

    def read(self) -> tuple[MaskFileSamples, MaskFileSamples]:
        """List images and masks of both splits."""
        train, val = self.sources()
        return MaskFileSamples(self.class_names, self._files(train)), MaskFileSamples(
            self.class_names, self._files(val)
        )

    def _files(self, splits: list[VocSplit]) -> list[MaskFile]:
        files: list[MaskFile] = []
        for split in splits:
            images = index_by_stem(split.folder / "JPEGImages", IMAGE_SUFFIXES)
            masks = index_by_stem(split.folder / self.masks, (".png",))
            for name in split.ids("Segmentation"):
                for found, folder, suffix in ((images, "JPEGImages", "jpg"), (masks, self.masks, "png")):
                    if name not in found:
                        where = split.folder / folder / f"{name}.{suffix}"
                        raise unexpected(where, "no such file", f"one as {split.name}.txt lists it")
                files.append(MaskFile(images[name], masks[name]))
        return files


def check_year(year: Any) -> str:
    """Return the year as a key of YEARS (YAML may have read 07 as a number)."""
    text = str(year).zfill(2)
    if text not in YEARS:
        raise unexpected("data.year", f"{year!r}", f"one of {', '.join(YEARS)}")
    return text
