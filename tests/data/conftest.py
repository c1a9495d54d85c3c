"""Tiny data sets in the real formats, written for each test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
    "<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)


def photo(path: Path, width: int, height: int, seed: int = 0) -> None:
    """Write a random JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def voc_xml(objects: list[dict[str, Any]], width: int = 40, height: int = 30) -> str:
    """Return a VOC annotation."""
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    items = "".join(VOC_OBJECT.format(**{"difficult": 0, **item}) for item in objects)
    return f"<annotation>{size}{items}</annotation>"


def write_voc(folder: Path, sets: dict[str, list[str]], kind: str = "Main") -> Path:
    """Write images of 40x30 pixels with one cat and one difficult dog each, masks with classes 0, 1 and void."""
    for number, name in enumerate(sorted({name for names in sets.values() for name in names})):
        photo(folder / "JPEGImages" / f"{name}.jpg", 40, 30, number)
        (folder / "Annotations").mkdir(exist_ok=True)
        cat, dog = {"name": "cat", "box": (1, 1, 20, 15)}, {"name": "dog", "box": (11, 6, 40, 30), "difficult": 1}
        (folder / "Annotations" / f"{name}.xml").write_text(voc_xml([cat, dog]))
        mask = np.zeros((30, 40), dtype=np.uint8)
        mask[:10, :10], mask[10:12, :10] = 1, 255
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        picture = Image.fromarray(mask)
        picture.putpalette([0, 0, 0, 128, 0, 0] + [9] * 762)
        picture.save(folder / "SegmentationClass" / f"{name}.png")
    for name, ids in sets.items():
        (folder / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / kind / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))
    return folder


def coco_content(names: list[str]) -> dict[str, Any]:
    """Return instances of images of 40x30 pixels: a cat (polygon), a dog (crowd, RLE), overlapping."""
    cat = {"category_id": 17, "bbox": [2, 3, 10, 8], "area": 80.0, "iscrowd": 0}
    cat["segmentation"] = [[2, 3, 12, 3, 12, 11, 2, 11]]
    dog = {"category_id": 18, "bbox": [0, 0, 4, 30], "area": 120.0, "iscrowd": 1}
    dog["segmentation"] = {"size": [30, 40], "counts": [0, 120, 1080]}
    images = [{"id": 10 + i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    items = [{**item, "image_id": image["id"]} for image in images for item in (cat, dog)]
    items = [{**item, "id": number} for number, item in enumerate(items)]
    categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
    return {"images": images, "annotations": items, "categories": categories}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A folder of VOC's layout: train a, b, val c; classes cat and dog."""
    folder = write_voc(tmp_path / "voc", {"train": ["a", "b"], "val": ["c"]})
    return write_voc(folder, {"train": ["a", "b"], "val": ["c"]}, "Segmentation")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder of COCO's layout: two training images, one held out."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, names in (("train2017", ["a.jpg", "b.jpg"]), ("val2017", ["c.jpg"])):
        for number, name in enumerate(names):
            photo(root / split / name, 40, 30, number)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_content(names)))
    return root


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Two training and two held-out images of 24x18 pixels in CamVid's form."""
    root = tmp_path / "camvid"
    for split in ("train", "val"):
        for name in ("a", "b"):
            photo(root / split / f"{name}.png", 24, 18)
            mask = np.arange(24 * 18, dtype=np.uint16).reshape(18, 24) % 12
            (root / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8)).save(root / f"{split}annot" / f"{name}.png")
    return root


@pytest.fixture
def class_folders() -> Callable[[Path, int, int], Path]:
    """Writer of <folder>/<class>/<image>: classes cat and dog."""

    def write(folder: Path, images: int, side: int = 32) -> Path:
        for label in ("cat", "dog"):
            for number in range(images):
                photo(folder / label / f"{number:04d}.jpg", side, side, number)
        return folder

    return write


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[Any], None]], None]:
    """Editor of a json file in place."""

    def edit(path: Path, change: Callable[[Any], None]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


COMMON: dict[str, Any] = {"batch_size": 2, "num_workers": 0, "image_size": 32, "seed": 0}


@pytest.fixture
def common() -> dict[str, Any]:
    """The fields that every data module takes."""
    return dict(COMMON)
