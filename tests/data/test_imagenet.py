"""ImageNet in class folders and as distributed."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from oaq_repro.data.imagenet import ImageNet
from oaq_repro.data.inspection import inspect_data
from oaq_repro.data.notes import DataWarning
from oaq_repro.errors import InputError
from oaq_repro.settings.schema import build

Folders = Callable[..., Path]
WNIDS = [f"n{number:08d}" for number in range(1, 1001)]
NUMBERS = random.Random(0).sample(range(1, 1001), 1000)
"""ILSVRC2012_ID of each of WNIDS."""


def test_imagenet(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 3, 50)
    class_folders(tmp_path / "val", 1, 50)
    data = ImageNet(root=tmp_path, **common)
    data.setup()
    assert data.classes == ("cat", "dog") and len(data.splits[0]) == 6
    for images, labels in data.train_dataloader():
        assert images.shape == (2, 3, 32, 32) and labels.dtype == torch.int64
    (images, labels), *_ = list(data.val_dataloader())
    assert images.shape == (2, 3, 32, 32) and labels.tolist() == [0, 1]


def test_imagenet_evaluation_takes_the_centre(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, 1)
    frame = np.full((64, 128, 3), 255, dtype=np.uint8)
    frame[4:60, 36:92] = 0  # the central 56 of 64 pixels: all that crop_fraction 0.875 keeps
    Image.fromarray(frame).save(tmp_path / "val" / "cat" / "frame.png")
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, **common, "image_size": 56}
    data = ImageNet(root=tmp_path, crop_fraction=0.875, **plain)
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert images[1].max() == 0
    with pytest.raises(InputError, match=r"data\.crop_fraction: found 1\.5"):
        build("data", {"kind": "imagenet", "root": str(tmp_path), "crop_fraction": 1.5, **common})


def test_class_folders_with_defects(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"found neither train nor val in it"):
        ImageNet(root=tmp_path, **common).setup()
    class_folders(tmp_path / "train", 1)
    with pytest.raises(InputError, match=r"val: found no such folder"):
        ImageNet(root=tmp_path, **common).setup()
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"val: found no folder of images"):
        ImageNet(root=tmp_path, **common).setup()
    (tmp_path / "val" / "wolf").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "wolf" / "x.png")
    with pytest.raises(InputError, match=r"val: found 1 classes that are in val only: wolf; expected those of the 2"):
        ImageNet(root=tmp_path, **common).setup()
    (tmp_path / "train" / "wolf").mkdir()
    with pytest.raises(InputError, match=r"train/wolf: found a class without images"):
        ImageNet(root=tmp_path, **common).setup()


def test_val_may_lack_classes(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 1)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "dog").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "dog" / "x.png")
    (tmp_path / "val" / "dog" / "._x.png").write_bytes(b"what macOS keeps")
    data = ImageNet(root=tmp_path, **common)
    assert data.classes == ("cat", "dog") and data.splits[1].labels().tolist() == [1]


def flat(root: Path, *numbers: int) -> Path:
    """Write val/ILSVRC2012_val_<number>.JPEG."""
    (root / "val").mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", (9, 8), (number, 0, 0)).save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


def write_words(root: Path) -> None:
    (root / "synset_words.txt").write_text("".join(f"{wnid} a thing, an object\n" for wnid in WNIDS))


def write_list(root: Path, labels: dict[int, object]) -> None:
    lines = (f"ILSVRC2012_val_{number:08d}.JPEG {label}\n" for number, label in labels.items())
    (root / "val.txt").write_text("".join(lines))


def write_devkit(folder: Path, labels: list[int]) -> None:
    """Ground truth and meta.mat, with an inner node of the tree as the real one has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in labels))
    rows = [(n, w, f"words of {w}", 0) for n, w in sorted(zip(NUMBERS, WNIDS, strict=True))]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    synsets = np.array([*rows, (1001, "n99999999", "entity", 2)], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": synsets[:, None]})


def test_val_with_a_list_and_no_train(tmp_path: Path, common: dict[str, Any]) -> None:
    root = flat(tmp_path, *range(1, 21))
    write_list(root, {number: number * 40 for number in range(1, 21)})
    write_words(root)
    data = ImageNet(root=root, calibration_images=8, **(common | {"batch_size": 16}))  # more than 8: nothing is trained
    with pytest.warns(DataWarning, match="no folder train: 8 of the 20 images in val are for calibration, 12 are held"):
        data.setup()
    assert data.classes == tuple(WNIDS)
    calibration, held_out = ({Path(path).name: label for path, label in samples.files} for samples in data.splits)
    assert len(calibration) == 8 and len(held_out) == 12 and not set(calibration) & set(held_out)
    assert all(label == 40 * int(name[15:23]) for name, label in (calibration | held_out).items())
    assert sum(len(labels) for _, labels in data.calibration_dataloader()) == 8
    with pytest.raises(
        InputError, match=r"found no folder train, so no images to train on; expected .*schedule\.float=null"
    ):
        data.train_dataloader()
    with pytest.raises(InputError, match="data.batch_size: found 16; expected at most the 8 calibration images"):
        data.unlabelled_dataloader()
    other = ImageNet(root=root, calibration_images=9, **common)
    assert other.fingerprint() == data.fingerprint()  # calibration_images is in the settings
    assert {Path(path).name for path, _ in other.splits[0].files} > set(calibration)
    with pytest.raises(InputError, match=r"data\.calibration_images: found 20; expected fewer than the 20 images"):
        ImageNet(root=root, calibration_images=20, **common).setup()


def test_calibration_images_teach_where_there_is_no_train(tmp_path: Path, common: dict[str, Any]) -> None:
    root = flat(tmp_path, *range(1, 21))
    write_list(root, {number: number for number in range(1, 21)})
    write_words(root)
    data = ImageNet(root=root, calibration_images=9, **(common | {"batch_size": 2}))
    (known,) = torch.cat([images for images, _ in data.calibration_dataloader()]).mean((2, 3))[None]
    loader = data.unlabelled_dataloader()
    epochs = [torch.cat([images for images, _ in loader]).mean((2, 3)) for _ in range(2)]
    assert len(loader) == 4 and not torch.equal(*epochs)
    assert all((known == image).all(1).any() for epoch in epochs for image in epoch)


def test_seeds_are_random_splits_of_the_same_data(tmp_path: Path, common: dict[str, Any]) -> None:
    root = flat(tmp_path, *range(1, 21))
    labels = {number: number * 40 for number in range(1, 21)}
    write_list(root, labels)
    write_words(root)
    first, second = (ImageNet(root=root, calibration_images=8, **common | {"seed": seed}) for seed in (0, 1))
    held_out = [{path for path, _ in data.splits[1].files} for data in (first, second)]
    assert held_out[0] != held_out[1] and len(held_out[0]) == len(held_out[1]) == 12
    assert first.fingerprint() == second.fingerprint()
    write_list(root, labels | {3: 5})
    assert ImageNet(root=root, calibration_images=8, **common).fingerprint() != first.fingerprint()


def test_the_split_does_not_depend_on_the_layout(tmp_path: Path, common: dict[str, Any]) -> None:
    root = flat(tmp_path / "flat", *range(1, 21))
    write_list(root, {number: number % 3 for number in range(1, 21)})
    flat(tmp_path / "folders", *range(1, 21))
    for path in sorted((tmp_path / "folders" / "val").iterdir()):
        folder = path.parent / WNIDS[int(path.name[15:23]) % 3]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    for place in ("flat", "folders"):
        write_words(tmp_path / place)
    first, second = (ImageNet(root=tmp_path / p, calibration_images=5, **common).splits for p in ("flat", "folders"))
    for a, b in zip(first, second, strict=True):
        assert {(Path(p).name, n) for p, n in a.files} == {(Path(p).name, n) for p, n in b.files}
    assert first[0].classes == second[0].classes == tuple(WNIDS)


@pytest.mark.parametrize("place", ["", "data", "ILSVRC2012_devkit_t12/data"])
def test_the_devkit_s_numbers_are_not_in_the_order_of_the_classes(
    tmp_path: Path, common: dict[str, Any], place: str
) -> None:
    root = flat(tmp_path, 1, 3, 4)
    write_devkit(root / place, [7, 1000, 7, 1])
    data = ImageNet(root=root, calibration_images=1, **common)
    with pytest.warns(DataWarning, match="ground_truth.txt: names 4 images, 3 of which are in"):
        data.setup()
    found = {Path(path).name: data.classes[label] for samples in data.splits for path, label in samples.files}
    expected = {1: 7, 3: 7, 4: 1}
    assert found == {f"ILSVRC2012_val_{n:08d}.JPEG": WNIDS[NUMBERS.index(label)] for n, label in expected.items()}
    (root / place / "meta.mat").write_bytes(b"MATLAB 5.0 cut short")
    with pytest.raises(InputError, match=r"meta\.mat: found a damaged meta\.mat"):
        ImageNet(root=root, **common).setup()
    (root / place / "meta.mat").unlink()
    with pytest.raises(InputError, match=r"meta\.mat: found no such file, and no val\.txt.*; expected val\.txt"):
        ImageNet(root=root, **common).setup()


def test_a_list_beside_train_folders(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    """Indices are of the training classes, or of all 1000 where synset_words.txt says which these are."""
    root = flat(tmp_path, 1, 2)
    for name in (WNIDS[5], WNIDS[900]):
        (root / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "train" / name / "x.png")
    write_list(root, {1: 1, 2: 0})
    assert ImageNet(root=root, **common).splits[1].labels().tolist() == [1, 0]
    write_list(root, {1: 900, 2: 5})
    with pytest.raises(InputError, match=r"found .*_00000001\.JPEG 900'; expected a name and an index of 2 classes"):
        ImageNet(root=root, **common).setup()
    write_words(root)
    assert ImageNet(root=root, **common).splits[1].labels().tolist() == [1, 0]
    write_list(root, {1: 900, 2: 6})
    with pytest.raises(InputError, match=rf"val\.txt: found .*2\.JPEG of class {WNIDS[6]}; expected one of the 2 cl"):
        ImageNet(root=root, **common).setup()


def test_defects_of_lists(tmp_path: Path, common: dict[str, Any]) -> None:
    root = flat(tmp_path, 1, 2)
    messages = {
        r"val\.txt: found an empty list": {},
        r"val/ILSVRC2012_val_00000002\.JPEG: found no such file; expected only images that val\.txt": {1: 0},
        r"JPEG 1000'; expected a name and an index of 1000 classes": {1: 0, 2: 1000},
        r"JPEG x'.*: found 'x'; expected an integer": {1: 0, 2: "x"},
    }
    for message, labels in messages.items():
        write_list(root, labels)
        with pytest.raises(InputError, match=message):
            ImageNet(root=root, calibration_images=1, **common).setup()
    (root / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1\nval/ILSVRC2012_val_00000001.JPEG 2\n")
    with pytest.raises(InputError, match=r"val\.txt: found ILSVRC2012_val_00000001\.JPEG more than once"):
        ImageNet(root=root, calibration_images=1, **common).setup()
    write_list(root, {1: 0, 2: 999})
    data = ImageNet(root=root, calibration_images=1, **common)
    assert data.classes == tuple(str(number) for number in range(1000))
    (root / "synset_words.txt").write_text("n00000002 b\nn00000001 a\n")
    with pytest.raises(InputError, match=r"synset_words\.txt: found no WordNet ids, or not in their order"):
        ImageNet(root=root, calibration_images=1, **common).setup()


def test_images_of_227_pixels_need_no_resize(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, 1, 227)
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, **common, "image_size": 224}
    data = ImageNet(root=tmp_path, crop_fraction=0.987, **plain)
    image, _ = data.splits[1].load(0)
    images, _ = next(iter(data.val_dataloader()))
    crops = [image[:, y : y + 224, x : x + 224] for y in range(4) for x in range(4)]
    assert any(torch.equal(crop, (images[0] * 255).round().to(torch.uint8)) for crop in crops)


def test_real_images(shared_data: Path, common: dict[str, Any]) -> None:
    data = ImageNet(root=shared_data / "imagenet", crop_fraction=0.987, **(common | {"image_size": 224}))
    with pytest.warns(DataWarning, match="256 of the 900 images in val are for calibration, 644 are held out"):
        data.setup()
    assert len(data.classes) == 1000 and data.classes[0] == "n01440764"
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 224, 224) and labels.tolist() == data.splits[1].labels()[:2].tolist()
    few = ImageNet(root=shared_data / "imagenet", subset=30, val_subset=30, **common)
    assert inspect_data(few).complete
