"""COCO's instances_*.json: images, categories and annotations, checked and put into one form."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oaq_repro.data import coco_masks
from oaq_repro.data.fields import integer, number, require_unique, shown, unexpected
from oaq_repro.data.images import check_size, image_size
from oaq_repro.data.notes import Repairs
from oaq_repro.data.reading import names_in, read_json, require_files

AS_TEXT = "ids and sizes written as text or fractions, read as integers"
SIZE_FROM_IMAGE = "widths and heights that are absent or 0, taken from the images"
AREA_COMPUTED = "areas that are absent, computed"
WHAT = "COCO's instances: the lists images, annotations, categories"


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image of the file; `size` is (height, width)."""

    path: Path
    id: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CocoObject:
    """One annotation: `category` is that of the file, the rest as it stands there."""

    path: Path
    category: int
    entry: dict[str, Any]

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"annotation {shown(self.entry['id']) if 'id' in self.entry else 'without id'}"

    def box(self) -> tuple[float, float, float, float]:
        """Corners (x0, y0, x1, y1), half-open; InputError where `bbox` is none."""
        where, box = f"{self.path}: {self.place}: bbox", self.entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise unexpected(where, shown(box), "[x, y, width, height]")
        x, y, width, height = (number(value, where) for value in box)
        return x, y, x + width, y + height

    def is_crowd(self) -> bool:
        """Whether it is a group of objects."""
        where = f"{self.path}: {self.place}: iscrowd"
        value = self.entry.get("iscrowd")
        flag = integer(int(value) if isinstance(value, bool) else value or 0, where)
        if flag not in (0, 1):
            raise unexpected(where, shown(value), "0 or 1")
        return flag == 1

    def segmentation(self, size: tuple[int, int], repairs: Repairs) -> Any:
        """Polygons or RLE that can be drawn; None where it has no pixel."""
        where, value = f"{self.path}: {self.place}: segmentation", self.entry.get("segmentation")
        return coco_masks.check_segmentation(value, size, where, self.place, repairs)

    def area(self, size: tuple[int, int], repairs: Repairs, drawn: Any = None) -> float | None:
        """The object's pixels as the file says, else those of its segmentation; None where it has none of the two.

        `drawn` is the segmentation where the caller has checked it already.
        """
        where, value = f"{self.path}: {self.place}: area", self.entry.get("area")
        if value is not None:
            given = number(value, where)
            if given < 0:
                raise unexpected(where, shown(value), "a number of pixels")
            return given
        repairs.count(AREA_COMPUTED, self.place)
        drawn = self.segmentation(size, repairs) if drawn is None else drawn
        return None if drawn is None else coco_masks.area(drawn, size, where)


@dataclass(frozen=True)
class Instances:
    """A checked file: images in its order, their annotations by image id, category id -> name in ascending order."""

    path: Path
    images: list[CocoImage]
    objects: dict[int, list[CocoObject]]
    categories: dict[int, str]
    repairs: Repairs


def read_instances(root: Path, split: str) -> Instances:
    """Read annotations/instances_<split>2017.json and check its ids.

    Raises InputError for broken json, a missing field, an id or name that stands there twice, an annotation of no
    image or category, an absent image.
    """
    path, folder = root / "annotations" / f"instances_{split}2017.json", root / f"{split}2017"
    content = read_json(path, WHAT)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise unexpected(f"{path}: {key}", "no such list", WHAT)
    repairs = Repairs(path)
    categories = _categories(content["categories"], path, repairs)
    images = _images(content["images"], path, folder, repairs)
    known = {"image_id": {image.id for image in images}, "category_id": set(categories)}
    objects: dict[int, list[CocoObject]] = defaultdict(list)
    for entry in content["annotations"]:
        found = CocoObject(path, 0, entry if isinstance(entry, dict) else {})
        ids = {key: _integer(found.entry, key, path, found.place, repairs) for key in known}
        for key, value in ids.items():
            if value not in known[key]:
                raise unexpected(f"{path}: {found.place}: {key}", value, f"an id that {key.split('_')[0]} entries have")
        objects[ids["image_id"]].append(replace(found, category=ids["category_id"]))
    return Instances(path, images, objects, categories, repairs)


def _categories(entries: list[Any], path: Path, repairs: Repairs) -> dict[int, str]:
    ids = [_integer(entry, "id", path, "categories", repairs) for entry in entries]
    names = [_text(entry, "name", path, "categories") for entry in entries]
    require_unique(f"{path}: categories: id", ids, "every category once")
    require_unique(f"{path}: categories: name", names, "one category of a name")
    return dict(sorted(zip(ids, names, strict=True)))


def _images(entries: list[Any], path: Path, folder: Path, repairs: Repairs) -> list[CocoImage]:
    if not entries:
        raise unexpected(f"{path}: images", "an empty list", "at least one image")
    ids = [_integer(entry, "id", path, "images", repairs) for entry in entries]
    names = [_text(entry, "file_name", path, f"image {number}") for entry, number in zip(entries, ids, strict=True)]
    require_unique(f"{path}: images: id", ids, "every image once")
    require_unique(f"{path}: images: file_name", names, "one image of a file")
    require_files(folder, names, set(names_in(folder, "the images of COCO's layout")), f"an image of {path.name}")
    images = []
    for entry, number_, name in zip(entries, ids, names, strict=True):
        place = f"image {number_}"
        given = {key: entry.get(key) or 0 for key in ("height", "width")}
        height, width = (_integer(given, key, path, place, repairs) for key in given)
        size = (height, width)
        if 0 in size:
            repairs.count(SIZE_FROM_IMAGE, place)
            size = image_size(folder / name)
        check_size(f"{path}: {place}: width, height", size)
        images.append(CocoImage(folder / name, number_, size))
    return images


def _integer(entry: Any, key: str, path: Path, place: str, repairs: Repairs) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    found = integer(value, f"{path}: {place}: {key}")
    if not isinstance(value, int):
        repairs.count(AS_TEXT, place)
    return found


def _text(entry: dict[str, Any], key: str, path: Path, place: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise unexpected(f"{path}: {place}: {key}", shown(value), "a text")
    return value
