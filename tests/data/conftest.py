"""Tiny data sets in the real formats, written for each test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import coco_content, photo, write_voc
from PIL import Image


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
