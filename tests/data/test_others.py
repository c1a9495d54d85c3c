"""CIFAR-10 and CamVid."""

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
from oaq_repro.data.cifar10 import Cifar10, Cifar100
from oaq_repro.data.notes import DataWarning
from oaq_repro.errors import InputError

Folders = Callable[..., Path]


def test_cifar_folders_hold_out_every_tenth(tmp_path: Path, class_folders: Folders, common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 20)
    data = Cifar10(root=tmp_path, **common)
    with pytest.warns(DataWarning, match="no test split; 4 of the 40 training images are held out"):
        data.setup()
    assert (len(data.splits[0]), len(data.splits[1])) == (36, 4)
    assert [Path(path).name for path, _ in data.splits[1].files] == ["0009.jpg", "0019.jpg"] * 2
    class_folders(tmp_path / "test", 1)
    data = Cifar10(root=tmp_path, **common)
    assert len(data.splits[0]) == 40 and len(data.splits[1]) == 2


def test_cifar_100_is_read_from_its_own_canonical_files(tmp_path: Path, common: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no CIFAR-100; expected cifar-100-python, train/<class>/<image> or train.zip"):
        Cifar100(root=tmp_path, **common).setup()
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "train").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cifar-100-python: found a damaged copy of CIFAR-100"):
        Cifar100(root=tmp_path, **common).setup()


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


def member(path: Path, number: int, change: Callable[[bytearray], None]) -> None:
    """Change the central directory's entry of one member of a zip."""
    content = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = content.index(b"PK\x01\x02", place + 1)
    entry = content[place : place + 46]
    change(entry)
    content[place : place + 46] = entry
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (8, b"\x01\0", r"a damaged member of a zip \(File .* is encrypted"),
        (10, b"\x63\0", r"a damaged member of a zip \(.*compression"),
        (24, b"\xff\xff\xff\x7f", "2147483647 bytes; expected at most 67108864"),
        (16, b"\0\0\0\0", r"a damaged member of a zip \(Bad CRC-32"),
    ],
)
def test_cifar_zip_hostile_members(
    tmp_path: Path, class_folders: Folders, common: dict[str, Any], offset: int, value: bytes, message: str
) -> None:
    """Encrypted, compressed in an unknown way, claiming two gigabytes, of another checksum."""
    class_folders(tmp_path / "files" / "train", 10)
    path = make_zip(tmp_path / "files", tmp_path / "data.zip")

    def change(entry: bytearray) -> None:
        entry[offset : offset + len(value)] = value

    member(path, 1, change)
    with pytest.raises(InputError, match=rf"data\.zip: train/cat/0000\.jpg: found {message}"):
        list(Cifar10(root=path, **common).calibration_dataloader())


def test_cifar_zip_of_macos_and_with_a_member_twice(
    tmp_path: Path, class_folders: Folders, common: dict[str, Any]
) -> None:
    class_folders(tmp_path / "files" / "train", 10)
    path = make_zip(tmp_path / "files", tmp_path / "data.zip")
    plain = Cifar10(root=path, **common).fingerprint()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/train/cat/._0000.jpg", b"no image")
    assert Cifar10(root=path, **common).fingerprint() == plain
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/cat/0000.jpg", b"no image")
    with pytest.raises(InputError, match=r"data\.zip: found train/cat/0000\.jpg more than once"):
        Cifar10(root=path, **common).setup()


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
    assert data.classes == ("cat", "dog")
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert torch.allclose(images[1] * 255, torch.from_numpy(pixels[1].reshape(3, 32, 32)).float())
    (folder / "test_batch").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"cifar-10-batches-py: found a damaged copy of CIFAR-10"):
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
    with pytest.raises(InputError, match=r"valannot/a\.png: found no such file; expected the mask of an image in val"):
        CamVid(root=camvid, **common).setup()


def test_camvid_of_real_images(shared_data: Path, common: dict[str, Any]) -> None:
    data = CamVid(root=shared_data / "camvid", **(common | {"image_size": [180, 240]}))
    data.setup()
    assert (len(data.splits[0]), len(data.splits[1])) == (367, 101)
    images, masks = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 180, 240) and masks[masks != 255].max() <= 10
    assert data.fingerprint() == CamVid(root=shared_data / "camvid", **common).fingerprint()
