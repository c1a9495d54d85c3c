"""Classification: the data module that digits, CIFAR-10 and ImageNet share, and folders of class folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS

from oaq_repro.data.base import DataModule
from oaq_repro.data.fields import unexpected
from oaq_repro.data.images import read_image
from oaq_repro.data.loading import Samples
from oaq_repro.data.reading import MissingError, names_in


class ArraySamples(Samples):
    """Images in memory, uint8 [N, C, H, W]."""

    def __init__(self, classes: tuple[str, ...], images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__(classes, len(images))
        self.images, self.targets = images, labels.astype(np.int64)

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return image and class index."""
        return tv_tensors.Image(torch.from_numpy(self.images[index].copy())), int(self.targets[index])

    def identity(self, index: int) -> bytes:
        """Pixels and label: there is no name."""
        return self.images[index].tobytes() + int(self.targets[index]).to_bytes(2, "little")

    def labels(self) -> np.ndarray:
        """Class of every used sample."""
        return self.targets[self.indices]


class FolderSamples(Samples):
    """Image files with class indices."""

    def __init__(self, classes: tuple[str, ...], files: list[tuple[str, int]]) -> None:
        super().__init__(classes, len(files))
        self.files = files

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return image and class index."""
        path, label = self.files[index]
        return read_image(Path(path)), label

    def identity(self, index: int) -> bytes:
        """Class folder, file name and label."""
        path, label = self.files[index]
        return os.fsencode(f"{Path(path).parent.name}/{Path(path).name}\0{label}")

    def labels(self) -> np.ndarray:
        """Class of every used sample."""
        return np.array([label for _, label in self.files], dtype=np.int64)[self.indices]


def read_class_folders(folder: Path, all_have: bool = True) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Return class names (sorted) and the (file, class index) of `folder`/<class>/<image>, also in folders below.

    No class may be without images where `all_have`.
    """
    names = tuple(name for name in names_in(folder, "one folder of images per class") if (folder / name).is_dir())
    files: list[tuple[str, int]] = []
    for index, name in enumerate(names):
        before = len(files)
        files += [(str(path), index) for path in image_files(folder / name)]
        if all_have and len(files) == before:
            raise unexpected(folder / name, "a class without images", "<class>/<image>", MissingError)
    if not files:
        raise unexpected(folder, "no folder of images", "<class>/<image>", MissingError)
    return names, files


def image_files(folder: Path) -> Iterator[Path]:
    """Images in a folder and in those below it, in the order of their names."""
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        yield from (Path(place) / name for name in sorted(names) if is_image(name))


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image; "._name" beside it is what macOS keeps about another file."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("._")


class ClassificationData(DataModule):
    """Batches (images float32 [N, C, H, W], labels int64 [N])."""

    task = "classification"

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack images and labels."""
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels, dtype=torch.int64)
