"""The files of VOC's layout: lists of images, folders, and the annotations in xml."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from oaq_repro.data.detection import EMPTY, Annotated, BoxCollector
from oaq_repro.data.fields import integer, number, require_unique, shown, unexpected
from oaq_repro.data.images import check_size, image_size
from oaq_repro.data.notes import Repairs
from oaq_repro.data.reading import SHOWN, MissingError, index_by_stem, read_lines, read_xml, require_files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
SIZE_FROM_IMAGE = "sizes that are absent or 0, taken from the images"
FLAG = re.compile(r"\s+(-1|0|1)$")
"""After the name in VOC's lists of one class: whether it is in the image. Those lists name all images of a split."""


@dataclass(frozen=True)
class VocSplit:
    """A folder with JPEGImages, Annotations, ... and the name of one of its ImageSets."""

    folder: Path
    name: str

    def list_of(self, kind: str) -> Path:
        """Return ImageSets/<kind>/<name>.txt."""
        return self.folder / "ImageSets" / kind / f"{self.name}.txt"

    def files(self, kind: str, annotations: str, suffix: str) -> list[tuple[str, Path, Path]]:
        """Return name, image and annotation of all images in the list; InputError naming those that are absent."""
        path = self.list_of(kind)
        if not path.exists():
            there = sorted(file.name for file in path.parent.glob("*.txt"))
            found = "no such file" + (f" (but {', '.join(there[:SHOWN])})" if there else "")
            raise unexpected(path, found, "one that you write: the name of an image on each line", MissingError)
        images = index_by_stem(self.folder / "JPEGImages", IMAGE_SUFFIXES)
        names = image_names(read_lines(path, "names of images, one per line"), images)
        require_unique(path, names, "every image once")
        require_files(self.folder / "JPEGImages", names, images, f"an image of {path.name}", ".jpg")
        others = index_by_stem(self.folder / annotations, (suffix,))
        require_files(self.folder / annotations, names, others, f"that of an image in {path.name}", suffix)
        return [(name, images[name], others[name]) for name in names]


def image_names(lines: list[str], images: Collection[str]) -> list[str]:
    """Return what the lines of a list name, without suffix.

    A whole line is a name (it may hold spaces), else a name with its suffix, or with the flag of VOC's lists of one
    class: the first of these that an image has.
    """
    names = []
    for line in lines:
        stem, dot, suffix = line.rpartition(".")
        bare = stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else line
        names.append(next((name for name in (line, bare, FLAG.sub("", line)) if name in images), bare))
    return names


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
        "the unpacked VOC benchmark, or a folder with JPEGImages, Annotations and ImageSets/Main/{train,val}.txt",
        MissingError,
    )


def parse_annotation(path: Path) -> ET.Element:
    """Return the root of an annotation; InputError where it is missing or broken."""
    return read_xml(path, "a VOC annotation")


def read_annotation(path: Path, image: Path, image_id: int, classes: dict[str, int], repairs: Repairs) -> Annotated:
    """Read one xml.

    VOC counts pixels from 1 and includes the last one, so (xmin, ymin, xmax, ymax) becomes the half-open
    (xmin - 1, ymin - 1, xmax, ymax), as in Detectron2. A box with xmax == xmin is taken for a slip and dropped.
    """
    root = parse_annotation(path)
    boxes = BoxCollector(path, _size(root, path, image, repairs), repairs, f"{path.name}: ")
    for position, item in enumerate(root.findall("object"), start=1):
        field = f"object {position}"
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise unexpected(f"{path}: {field}/name", shown(name or "nothing"), f"one of {', '.join(classes)}")
        x0, y0, x1, y1 = (_number(item, f"bndbox/{side}", path, field) for side in ("xmin", "ymin", "xmax", "ymax"))
        if x0 == x1 or y0 == y1:
            repairs.count(EMPTY, f"{path.name}: {field}")
            continue
        if x0 > x1 or y0 > y1:
            raise unexpected(f"{path}: {field}/bndbox", f"({x0:g}, {y0:g}, {x1:g}, {y1:g})", "min below max")
        difficult = (item.findtext("difficult") or "0").strip().lower() in ("1", "true")
        boxes.add(f"{field}/bndbox", (x0 - 1, y0 - 1, x1, y1), classes[name], difficult, None)
    return boxes.finish(image, image_id)


def _size(root: ET.Element, path: Path, image: Path, repairs: Repairs) -> tuple[int, int]:
    """Height and width as the xml says, or else as the image has them."""
    texts = [(root.findtext(f"size/{side}") or "0").strip() or "0" for side in ("height", "width")]
    height, width = (integer(text, f"{path}: size") for text in texts)
    if height == 0 or width == 0:
        repairs.count(SIZE_FROM_IMAGE, path.name)
        return image_size(image)
    check_size(f"{path}: size", (height, width))
    return height, width


def _number(node: ET.Element, field: str, path: Path, place: str) -> float:
    text = node.findtext(field)
    if text is None:
        raise unexpected(f"{path}: {place}/{field}", "no such field", "a number")
    return number(text.strip(), f"{path}: {place}/{field}")


def object_names(path: Path) -> set[str]:
    """Return the names of the objects in one xml."""
    texts = (item.findtext("name") for item in parse_annotation(path).findall("object"))
    return {text.strip() for text in texts if text and text.strip()}
