"""Classification: the data module that digits, CIFAR-10 and ImageNet share, and folders of class folders."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from oaq_repro.data.base import DataModule
from oaq_repro.data.checks import require_folder, unexpected
from oaq_repro.data.images import read_image
from oaq_repro.data.loading import Samples


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
        return f"{Path(path).parent.name}/{Path(path).name}\0{label}".encode()

    def labels(self) -> np.ndarray:
        """Class of every used sample."""
        return np.array([label for _, label in self.files], dtype=np.int64)[self.indices]


def read_class_folders(folder: Path) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Return class names (sorted) and the (file, class index) of `folder`/<class>/<image>; no class may be empty."""
    require_folder(folder, "one folder of images per class")
    try:
        names, to_index = find_classes(folder)
        return tuple(names), make_dataset(folder, to_index, extensions=IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise unexpected(
            folder, f"a class without images ({str(error).split(' Supported')[0]})", "<class>/<image>"
        ) from None


class ClassificationData(DataModule):
    """Batches (images float32 [N, C, H, W], labels int64 [N])."""

    task = "classification"

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack images and labels."""
        images, labels = zip(*samples, strict=True)
        return torch.stack(images), torch.tensor(labels, dtype=torch.int64)
