"""Tiny data sets in the real layouts: folders of a user's own, and the benchmarks as they are distributed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

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


WNIDS = ("n01440764", "n01443537", "n01484850")
"""The first three classes of ImageNet."""
COCO_CATEGORIES = {
    number: name
    for number, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if name not in ("__background__", "N/A")
}
"""The 80 categories by their ids, as torchvision knows them."""


def write_imagenet(root: Path, per_class: int = 4, side: int = 32) -> Path:
    """train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/ILSVRC2012_val_<number>.JPEG of three classes."""
    for index, wnid in enumerate(WNIDS):
        for number in range(per_class):
            photo(root / "train" / wnid / f"{wnid}_{number}.JPEG", side, side, number)
            name = f"ILSVRC2012_val_{1 + index + number * len(WNIDS):08d}.JPEG"
            photo(root / "val" / wnid / name, side, side, number)
    return root


def flatten_val(root: Path) -> Path:
    """Bring the val of `write_imagenet` into one folder, with the labels in val.txt."""
    lines = []
    for path in sorted((root / "val").rglob("*.JPEG"), key=lambda path: path.name):
        lines.append(f"{path.name} {WNIDS.index(path.parent.name)}\n")
        path.rename(root / "val" / path.name)
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    (root / "val.txt").write_text("".join(lines))
    return root


def write_voc_devkit(root: Path, images: int = 4) -> Path:
    """VOCdevkit/VOC2007 with trainval and test, VOCdevkit/VOC2012 with trainval; names as they are there."""
    numbers = [f"{number:06d}" for number in range(1, 2 * images + 1)]
    write_voc(root / "VOCdevkit" / "VOC2007", {"trainval": numbers[:images], "test": numbers[images:]})
    write_voc(root / "VOCdevkit" / "VOC2012", {"trainval": [f"2008_{number}" for number in numbers[:images]]})
    return root


def write_coco(root: Path, images: int = 4) -> Path:
    """annotations/instances_{train,val}2017.json with all 80 categories, train2017 and val2017.

    Each image has a person, which covers more pixels than segmentation asks of a training image, and a crowd of dogs.
    """
    (root / "annotations").mkdir(parents=True)
    for split, first in (("train2017", 9), ("val2017", 139)):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": number, "name": name} for number, name in COCO_CATEGORIES.items()]
        for number in range(first, first + images):
            name = f"{number:012d}.jpg"
            photo(root / split / name, 64, 48, number)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
            person: dict[str, Any] = {"category_id": 1, "bbox": [2, 3, 40, 40], "area": 1600.0, "iscrowd": 0}
            person["segmentation"] = [[2, 3, 42, 3, 42, 43, 2, 43]]
            dog: dict[str, Any] = {"category_id": 18, "bbox": [50, 0, 4, 48], "area": 192.0, "iscrowd": 1}
            dog["segmentation"] = {"size": [48, 64], "counts": [2400, 192, 480]}
            for item in (person, dog):
                entry = {**item, "image_id": number, "id": len(content["annotations"])}
                content["annotations"].append(entry)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def write_cifar(root: Path, classes: int = 3, per_class: int = 4) -> Path:
    """Class folders of 32 pixels, train/<class>/<image> and test/<class>/<image>."""
    for split in ("train", "test"):
        for index in range(classes):
            for number in range(per_class):
                photo(root / split / f"class{index}" / f"{number:04d}.png", 32, 32, 10 * index + number)
    return root


def write_tiny_imagenet(root: Path, per_class: int = 4) -> Path:
    """train/<wnid>/images/<wnid>_<number>.JPEG beside boxes, and val/images with val_annotations.txt."""
    lines = []
    for index, wnid in enumerate(WNIDS):
        for number in range(per_class):
            photo(root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", 64, 64, number)
            name = f"val_{index + number * len(WNIDS)}.JPEG"
            photo(root / "val" / "images" / name, 64, 64, number)
            lines.append(f"{name}\t{wnid}\t0\t32\t44\t62\n")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def write_benchmarks(root: Path) -> dict[str, Path]:
    """What the paper's tables need, each in a folder of its own, by the names of conf/data."""
    writers = {"imagenet": write_imagenet, "voc_detection": write_voc_devkit, "coco_segmentation": write_coco}
    writers |= {"cifar10": write_cifar, "cifar100": write_cifar, "tiny_imagenet": write_tiny_imagenet}
    writers |= dict.fromkeys(("activitynet", "fcvid", "mini_kinetics"), write_videos)
    return {name: write(root / name) for name, write in writers.items()} | {"jets": _write_jets(root / "jets")}


def write_videos(root: Path) -> Path:
    """Write five videos for training and three held-out ones, folders of 3 frames of 40x30 pixels, and their lists."""
    for split, count in (("train", 5), ("val", 3)):
        lines = []
        for number in range(count):
            name = f"{split}/video {number}"
            for frame in range(3):
                photo(root / "videos" / name / f"{frame:05d}.jpg", 40, 30, 10 * number + frame)
            lines.append(f"{name} 3 {number % 2}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def _write_jets(root: Path) -> Path:
    root.mkdir(parents=True)
    return write_jets_csv(root / "jets.csv").parent


JET_FEATURES = [
    "zlogz", "c1_b0_mmdt", "c1_b1_mmdt", "c1_b2_mmdt", "c2_b1_mmdt", "c2_b2_mmdt", "d2_b1_mmdt", "d2_b2_mmdt",
    "d2_a1_b1_mmdt", "d2_a1_b2_mmdt", "m2_b1_mmdt", "m2_b2_mmdt", "n2_b1_mmdt", "n2_b2_mmdt", "mass_mmdt",
    "multiplicity",
]  # fmt: skip
JET_CLASSES = ["g", "q", "w", "z", "t"]


def jets(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of `count` jets, each column of another size, and classes that depend on the first three."""
    values = np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)
    labels = (values[:, 0] > 0) + 2 * (values[:, 1] > 0)
    labels[values[:, 2] > 1] = 4
    return values * np.logspace(-2, 3, 16, dtype=np.float32) + 5, labels.astype(np.int64)


def write_jets_csv(path: Path, count: int = 60) -> Path:
    """As OpenML exports data set 42468: names in the first line, classes in quotes at the end."""
    values, labels = jets(count)
    lines = [",".join([*JET_FEATURES, "class"])]
    lines += [",".join([*map(str, row), f"'{JET_CLASSES[label]}'"]) for row, label in zip(values, labels, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path
