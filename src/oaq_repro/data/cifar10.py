"""CIFAR-10 and CIFAR-100 from torchvision's files, from class folders, or from a zip of class folders."""

import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from torchvision import tv_tensors
from torchvision.datasets import CIFAR10, CIFAR100

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ArraySamples, ClassificationData, FolderSamples, is_image, read_class_folders
from oaq_repro.data.fields import require_unique, unexpected
from oaq_repro.data.images import read_image
from oaq_repro.data.loading import Samples
from oaq_repro.data.notes import say
from oaq_repro.data.reading import MissingError, reading, require_folder
from oaq_repro.fields import NO_SCIENCE

HOLD_OUT_EVERY = 10
"""Where there is no test split, every tenth image of each class (in the order of the names) is held out."""
HELD_OUT_FOLDERS = ("test", "val")
MOST_BYTES = 1 << 26
"""Of an image in a zip, unpacked: known before it is."""
Files = list[tuple[str, int]]


class ZipSamples(FolderSamples):
    """Image files in a zip; every process opens it once."""

    def __init__(self, classes: tuple[str, ...], files: Files, archive: Path) -> None:
        super().__init__(classes, files)
        self.archive = archive
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return image and class index."""
        name, label = self.files[index]
        where = f"{self.archive}: {name}"
        with reading(where, "member of a zip", "an image, neither encrypted nor in a compression unknown here"):
            if self._open is None or self._open[0] != os.getpid():  # a file must not be shared with a forked worker
                self._open = (os.getpid(), zipfile.ZipFile(self.archive))
            size = self._open[1].getinfo(name).file_size
            if size > MOST_BYTES:
                raise unexpected(where, f"{size} bytes", f"at most {MOST_BYTES}")
            content = self._open[1].read(name)
        return read_image(where, content), label

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


class Cifar10(ClassificationData):
    """CIFAR-10, 32x32: pad by 4, crop and flip in training, the image as it is in evaluation.

    `root` is a zip, or a folder, in this order: with `cifar-10-batches-py` (the canonical files); with
    `train/<class>/*` and, if there, `test` or `val`; with train.zip; or else the place that torchvision downloads
    to (`download`). Without a test split every tenth training image of each class, in the order of names, is held out.
    """

    benchmark = "cifar10"
    title: ClassVar[str] = "CIFAR-10"
    source: ClassVar[type[CIFAR10]] = CIFAR10

    def __init__(self, *, download: Annotated[bool, NO_SCIENCE] = False, **common: Any) -> None:
        super().__init__(**common)
        self.download = download

    def prepare_data(self) -> None:
        """Download the canonical files where nothing is found and `download` is set."""
        root = self.root
        if root is None:
            raise unexpected("data.root", "nothing", f"the folder or the zip with {self.title}")
        if self._is_there(root) or not self.download:
            return
        if root.suffix == ".zip":
            raise unexpected(root, "no such file", "a zip with train/<class>/<image>", MissingError)
        try:
            self.source(root, download=True)
        except (OSError, RuntimeError) as error:
            raise unexpected(
                f"data.root={root}",
                f"no {self.title}, and it cannot be downloaded ({error})",
                self.expected(),
                MissingError,
            ) from None

    @classmethod
    def expected(cls) -> str:
        """What `root` should have, for messages."""
        return f"{cls.source.base_folder}, train/<class>/<image> or train.zip"

    @classmethod
    def _is_there(cls, root: Path) -> bool:
        return root.is_file() or any((root / name).exists() for name in (cls.source.base_folder, "train", "train.zip"))

    def read(self) -> tuple[Samples, Samples]:
        """Read the images or their names, from what `root` has."""
        root = self.root
        assert root is not None  # prepare_data has seen to it
        archive = next((path for path in (root, root / "train.zip") if path.is_file()), None)
        if (root / self.source.base_folder).is_dir():
            train, val = self._canonical(root, train=True), self._canonical(root, train=False)
            self.counts = {"train: images": len(train), "test: images": len(val)}
            return train, val
        make: Callable[..., Samples] = FolderSamples
        if (root / "train").is_dir():
            names, splits = _folders(root)
        elif archive is not None:
            names, splits = _members(archive)
            make = partial(ZipSamples, archive=archive)
        else:
            require_folder(root, self.title)
            raise unexpected(f"data.root={root}", f"no {self.title}", self.expected(), MissingError)
        held_out = next((splits[name] for name in HELD_OUT_FOLDERS if name in splits), None)
        self.counts = {"train: images": len(splits["train"])}
        if held_out is None:
            train_files, held_out = hold_out(splits["train"])
            say(root, f"no test split; {len(held_out)} of the {len(splits['train'])} training images are held out")
        else:
            self.counts["test: images"] = len(held_out)
            train_files = splits["train"]
        return make(names, files=train_files), make(names, files=held_out)

    def transform(self, train: bool) -> Transform:
        """Pad by an eighth of the side (4 of 32), crop, flip."""
        return transforms.small_images(self.size, train, self.size[0] // 8, 0.5, self.mean, self.std)

    def _canonical(self, root: Path, train: bool) -> ArraySamples:
        with reading(str(root / self.source.base_folder), f"copy of {self.title}", "torchvision's files"):
            data = self.source(root, train=train)
        return ArraySamples(tuple(data.classes), data.data.transpose(0, 3, 1, 2), np.array(data.targets))


class Cifar100(Cifar10):
    """CIFAR-100, its 100 fine classes: as CIFAR-10, with `cifar-100-python` for the canonical files."""

    benchmark = "cifar100"
    title: ClassVar[str] = "CIFAR-100"
    source: ClassVar[type[CIFAR10]] = CIFAR100


def _folders(root: Path) -> tuple[tuple[str, ...], dict[str, Files]]:
    names, train = read_class_folders(root / "train")
    splits = {"train": train}
    for folder in HELD_OUT_FOLDERS:
        if (root / folder).is_dir():
            held_out_names, splits[folder] = read_class_folders(root / folder)
            if held_out_names != names:
                raise unexpected(root / folder, f"classes {', '.join(held_out_names)}", "those of train")
    return names, splits


def _members(archive: Path) -> tuple[tuple[str, ...], dict[str, Files]]:
    """Return class names and the images of every split in a zip: members that end in <split>/<class>/<image>."""
    with reading(archive, "zip", "one with train/<class>/<image>"), zipfile.ZipFile(archive) as content:
        members = sorted(name for name in content.namelist() if is_image(name.rpartition("/")[2]))
    require_unique(archive, members, "every member once")
    found: dict[str, list[tuple[str, str]]] = {}
    for name in members:
        parts = name.split("/")
        if len(parts) >= 3:
            found.setdefault(parts[-3], []).append((name, parts[-2]))
    if "train" not in found:
        raise unexpected(archive, f"folders {', '.join(sorted(found)) or 'none'}", "train/<class>/<image>")
    names = tuple(sorted({label for _, label in found["train"]}))
    splits: dict[str, Files] = {}
    for split in ("train", *HELD_OUT_FOLDERS):
        for name, label in found.get(split, ()):
            if label not in names:
                raise unexpected(f"{archive}: {name}", f"class {label}", f"one of train: {', '.join(names)}")
            splits.setdefault(split, []).append((name, names.index(label)))
    return names, splits


def hold_out(files: Files) -> tuple[Files, Files]:
    """Return (train, held out): every HOLD_OUT_EVERY-th file of each class, in the given order, is held out."""
    seen: dict[int, int] = {}
    train: Files = []
    val: Files = []
    for file in files:
        seen[file[1]] = seen.get(file[1], 0) + 1
        (val if seen[file[1]] % HOLD_OUT_EVERY == 0 else train).append(file)
    return train, val
