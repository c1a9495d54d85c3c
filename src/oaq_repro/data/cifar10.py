"""CIFAR-10 from torchvision's files, from class folders, or from a zip of class folders."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import tv_tensors
from torchvision.datasets import CIFAR10

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.checks import require_folder, unexpected
from oaq_repro.data.classification import ArraySamples, ClassificationData, FolderSamples, read_class_folders
from oaq_repro.data.images import read_image
from oaq_repro.data.loading import Samples

HOLD_OUT_EVERY = 10
"""Where there is no test split, every tenth image of each class (in the order of the names) is held out."""
HELD_OUT_FOLDERS = ("test", "val")


class ZipSamples(FolderSamples):
    """Image files in a zip; every process opens it once."""

    def __init__(self, classes: tuple[str, ...], archive: Path, files: list[tuple[str, int]]) -> None:
        super().__init__(classes, files)
        self.archive = archive
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return image and class index."""
        name, label = self.files[index]
        where = f"{self.archive}: {name}"
        if self._open is None or self._open[0] != os.getpid():  # a file handle must not be shared with a forked worker
            self._open = (os.getpid(), zipfile.ZipFile(self.archive))
        try:
            content = self._open[1].read(name)
        except (zipfile.BadZipFile, OSError, KeyError) as error:
            raise unexpected(where, f"a damaged member ({error})", "an image") from None
        return read_image(content, where), label

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


class Cifar10(ClassificationData):
    """CIFAR-10, 32x32: pad by 4, crop and flip in training, the image as it is in evaluation.

    `root` is, in this order: a zip; a folder with `cifar-10-batches-py` (the canonical files); with `train/<class>/*`
    and, if there, `test` or `val`; with train.zip; or else the place that torchvision downloads to (`download`).
    Without a test split every tenth training image of each class, in the order of their names, is held out.
    """

    def __init__(self, *, download: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.download = download

    def prepare_data(self) -> None:
        """Download the canonical files where nothing is found and `download` is set."""
        root = self.root
        if root is None:
            raise unexpected("data.root", "nothing", "the folder or the zip with CIFAR-10")
        if self._is_there(root) or not self.download:
            return
        if root.suffix == ".zip":
            raise unexpected(root, "no such file", "a zip with train/<class>/<image>")
        try:
            CIFAR10(root, download=True)
        except (OSError, RuntimeError) as error:
            raise unexpected(
                f"data.root={root}",
                f"no CIFAR-10, and it cannot be downloaded ({error})",
                "cifar-10-batches-py, train/<class>/<image> or train.zip",
            ) from None

    @staticmethod
    def _is_there(root: Path) -> bool:
        return root.is_file() or any((root / name).exists() for name in (CIFAR10.base_folder, "train", "train.zip"))

    def read(self) -> tuple[Samples, Samples]:
        """Read the images or their names, from what `root` has."""
        assert self.root is not None  # prepare_data has seen to it
        if self.root.is_file():
            return self._zip(self.root)
        root = require_folder(self.root, "CIFAR-10")
        if (root / CIFAR10.base_folder).is_dir():
            return self._canonical(root, train=True), self._canonical(root, train=False)
        if (root / "train").is_dir():
            names, files = read_class_folders(root / "train")
            for folder in HELD_OUT_FOLDERS:
                if (root / folder).is_dir():
                    val_names, val = read_class_folders(root / folder)
                    if val_names != names:
                        raise unexpected(f"{root / folder}", f"classes {', '.join(val_names)}", "those of train")
                    return FolderSamples(names, files), FolderSamples(names, val)
            train, val = hold_out(files)
            return FolderSamples(names, train), FolderSamples(names, val)
        if (root / "train.zip").is_file():
            return self._zip(root / "train.zip")
        raise unexpected(f"data.root={root}", "no CIFAR-10", "cifar-10-batches-py, train/<class>/<image> or train.zip")

    @staticmethod
    def _canonical(root: Path, train: bool) -> ArraySamples:
        try:
            data = CIFAR10(root, train=train)
        except Exception as error:  # RuntimeError for checksums, and whatever unpickling a broken file raises
            raise unexpected(
                f"{root / CIFAR10.base_folder}", f"damaged files ({error})", "torchvision's CIFAR-10"
            ) from None
        return ArraySamples(tuple(data.classes), data.data.transpose(0, 3, 1, 2), np.array(data.targets))

    @staticmethod
    def _zip(path: Path) -> tuple[ZipSamples, ZipSamples]:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if not name.endswith("/")]
        except (zipfile.BadZipFile, OSError) as error:
            raise unexpected(path, f"a damaged zip ({error})", "one with train/<class>/<image>") from None
        splits: dict[str, list[tuple[str, str]]] = {}
        for name in sorted(members):
            parts = name.split("/")
            if len(parts) < 3 or Path(name).suffix.lower() not in (".jpg", ".jpeg", ".png"):
                raise unexpected(path, f"member {name}", "train/<class>/<image>")
            splits.setdefault(parts[-3], []).append((name, parts[-2]))
        if "train" not in splits:
            raise unexpected(path, f"folders {', '.join(sorted(splits)) or 'none'}", "train/<class>/<image>")
        names = tuple(sorted({label for _, label in splits["train"]}))
        labelled = {
            split: [(name, _label(names, label, path)) for name, label in found] for split, found in splits.items()
        }
        held_out = next((labelled[split] for split in HELD_OUT_FOLDERS if split in labelled), None)
        train, val = hold_out(labelled["train"]) if held_out is None else (labelled["train"], held_out)
        return ZipSamples(names, path, train), ZipSamples(names, path, val)

    def transform(self, train: bool) -> Transform:
        """Pad by an eighth of the side (4 of 32), crop, flip."""
        return transforms.small_images(self.size, train, self.size[0] // 8, 0.5, self.mean, self.std)


def _label(names: tuple[str, ...], name: str, path: Path) -> int:
    if name not in names:
        raise unexpected(path, f"held-out class {name}", f"one of train: {', '.join(names)}")
    return names.index(name)


def hold_out(files: list[tuple[str, int]]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return (train, held out): every HOLD_OUT_EVERY-th file of each class, in the given order, is held out."""
    seen: dict[int, int] = {}
    train, val = [], []
    for file in files:
        seen[file[1]] = seen.get(file[1], 0) + 1
        (val if seen[file[1]] % HOLD_OUT_EVERY == 0 else train).append(file)
    return train, val
