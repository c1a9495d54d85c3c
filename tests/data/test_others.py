"""ImageNet, CIFAR-10 and CamVid."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5

from oaq_repro.data.camvid import CamVid
from oaq_repro.data.cifar10 import Cifar10
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.errors import InputError

Folders = Callable[..., Path]


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
        ImageNet(root=tmp_path, crop_fraction=1.5, **common)


def test_imagenet_defects(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"train: found no such folder"):
        ImageNet(root=tmp_path, **common).setup()
    class_folders(tmp_path / "train", 1)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"val: found a class without images .*cat"):
        ImageNet(root=tmp_path, **common).setup()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "cat" / "x.png")
    with pytest.raises(InputError, match=r"val: found 1 classes; expected the 2 of train \(only in one of them: dog\)"):
        ImageNet(root=tmp_path, **common).setup()


def test_cifar_folders_hold_out_every_tenth(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 20)
    data = Cifar10(root=tmp_path, **common)
    data.setup()
    assert data.holds_out and (len(data.splits[0]), len(data.splits[1])) == (36, 4)
    assert [Path(path).name for path, _ in data.splits[1].files] == ["0009.jpg", "0019.jpg"] * 2
    class_folders(tmp_path / "test", 1)
    data = Cifar10(root=tmp_path, **common)
    assert len(data.splits[0]) == 40 and len(data.splits[1]) == 2 and not data.holds_out


def make_zip(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("LICENSE", "text")
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_cifar_zip_is_its_folder(tmp_path: Path, class_folders: Folders, common: dict[str, Any], workers: int) -> None:
    class_folders(tmp_path / "files" / "train", 20)
    path = make_zip(tmp_path / "files", tmp_path / "train.zip")
    common["num_workers"] = workers
    folder, zipped = Cifar10(root=tmp_path / "files", **common), Cifar10(root=path, **common)
    for expected, found in zip(folder.train_dataloader(), zipped.train_dataloader(), strict=True):
        assert torch.equal(expected[0], found[0]) and torch.equal(expected[1], found[1])
    assert folder.fingerprint() == zipped.fingerprint()
    assert Cifar10(root=tmp_path, **common).fingerprint() == zipped.fingerprint()  # found as train.zip


def test_cifar_zip_defects(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"data\.zip: found a damaged zip"):
        Cifar10(root=path, **common).setup()
    class_folders(tmp_path / "files" / "other", 1)
    with pytest.raises(InputError, match=r"data\.zip: found folders other; expected train"):
        Cifar10(root=make_zip(tmp_path / "files", path), **common).setup()
    class_folders(tmp_path / "files" / "train", 20)
    make_zip(tmp_path / "files", path)
    content = bytearray(path.read_bytes())
    start = content.index(b"train/dog/0009.jpg") + 200
    content[start : start + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data\.zip: train/dog/0009\.jpg: found a damaged"):
        list(Cifar10(root=path, **common).val_dataloader())


def test_cifar_canonical_files(tmp_path: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.arange(4 * 3072).reshape(4, 3072).astype(np.uint8)
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 1, 0]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", calculate_md5(folder / "data_batch_1")]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", calculate_md5(folder / "test_batch")]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": calculate_md5(folder / "batches.meta")}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    data = Cifar10(root=tmp_path, **(common | {"mean": [0.0] * 3, "std": [1.0] * 3}))
    data.setup()
    assert data.classes == ("cat", "dog") and not data.holds_out
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert torch.allclose(images[1] * 255, torch.from_numpy(pixels[1].reshape(3, 32, 32)).float())
    (folder / "test_batch").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"cifar-10-batches-py: found damaged files"):
        Cifar10(root=tmp_path, **common).setup()


def test_cifar_absent(tmp_path: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"found no such folder"):
        Cifar10(root=tmp_path / "none", **common).setup()
    with pytest.raises(InputError, match=r"found no CIFAR-10; expected cifar-10-batches-py, train"):
        Cifar10(root=tmp_path, **common).setup()

    def offline(self: CIFAR10) -> None:
        raise OSError("no network")

    monkeypatch.setattr(CIFAR10, "download", offline)
    with pytest.raises(InputError, match=r"it cannot be downloaded \(no network\); expected cifar-10-batches-py"):
        Cifar10(root=tmp_path, download=True, **common).setup()


def test_cifar_zip_of_real_images(shared_data: Path, common: dict[str, Any]) -> None:
    data = Cifar10(root=shared_data / "cifar10" / "train.zip", **(common | {"batch_size": 64}))
    data.setup()
    assert (len(data.splits[0]), len(data.splits[1]), len(data.classes)) == (45000, 5000, 10)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 3, 32, 32) and abs(float(images.mean())) < 1 and len(labels.unique()) > 5


def test_camvid(camvid: Path, common: dict[str, Any]) -> None:
    data = CamVid(root=camvid, eval_size=[18, 24], **(common | {"image_size": [18, 24]}))
    data.setup()
    assert len(data.classes) == 11 and data.input_shape == (3, 18, 24)
    ((images, masks),) = list(data.val_dataloader())
    assert images.shape == (2, 3, 18, 24)
    assert sorted(masks.unique().tolist()) == [*range(11), 255]
    for images, masks in data.train_dataloader():
        assert images.shape == (2, 3, 18, 24) and masks.shape == (2, 18, 24)


def test_camvid_defects(camvid: Path, common: dict[str, Any]) -> None:
    Image.new("L", (24, 18), 12).save(camvid / "valannot" / "a.png")
    with pytest.raises(InputError, match=r"valannot/a\.png: found class index 12; expected 0 to 11"):
        list(CamVid(root=camvid, **common).val_dataloader())
    (camvid / "valannot" / "a.png").unlink()
    with pytest.raises(InputError, match=r"valannot/a\.png: found no such file; expected the mask of a\.png"):
        CamVid(root=camvid, **common).setup()


def test_camvid_of_real_images(shared_data: Path, common: dict[str, Any]) -> None:
    data = CamVid(root=shared_data / "camvid", **(common | {"image_size": [180, 240]}))
    data.setup()
    assert (len(data.splits[0]), len(data.splits[1])) == (367, 101)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 180, 240) and masks[masks != 255].max() <= 10
    assert data.fingerprint() == CamVid(root=shared_data / "camvid", **common).fingerprint()
