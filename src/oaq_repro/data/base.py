"""What all data modules share: loaders, subsets, seeds and the fingerprint."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from oaq_repro.data.fields import Sides, both_sides, unexpected
from oaq_repro.data.loading import ErrorCollate, Loader, Samples, Shuffle, View
from oaq_repro.data.notes import say
from oaq_repro.fields import NO_SCIENCE, Count, Finite, Positive, Seed, Text, Workers

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ABSENT_NAMED = 5
"""How many classes that never occur are named."""

REMEDY = "some, or schedule.float=null and no fine-tuning (method=ptq_int8) or task.teacher=float"

Transform = Callable[[Any, Any], Any]


class DataModule(pl.LightningDataModule, ABC):
    """Training, calibration and held-out samples of one task.

    `root` is the data folder, `image_size` the side (or height and width) of what the network sees,
    `subset` and `val_subset` keep only so many samples (balanced over the classes for classification,
    the first ones otherwise), `mean` and `std` normalise channels of [0, 1]. `seed` fixes the order
    and every random transform: sample i of epoch e is the same for any number of workers, and after a resume.
    Subclasses read samples (`read`) and say how they are transformed (`transform`).
    """

    task: str
    benchmark: str | None = None  # its entry in manifests.yaml; None: a data set of the user's own
    download = False  # whether `prepare_data` may download
    trains = True  # False: the first split is for calibration alone

    def __init__(
        self,
        *,
        root: Annotated[Text | Path | None, NO_SCIENCE],
        batch_size: Count,
        image_size: Sides,
        seed: Annotated[Seed, NO_SCIENCE],
        num_workers: Annotated[Workers, NO_SCIENCE] = 0,
        subset: Count | None = None,
        val_subset: Count | None = None,
        mean: tuple[Finite, ...] = IMAGENET_MEAN,
        std: tuple[Positive, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.root = None if root is None else Path(root).expanduser()
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.subset, self.val_subset = subset, val_subset
        self.size = both_sides(image_size)
        self.mean, self.std = [float(v) for v in mean], [float(v) for v in std]
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise unexpected("data.mean, data.std", f"{self.mean}, {self.std}", "as many as channels, 1 or 3")
        self.counts: dict[str, int] = {}  # what `read` found before any selection, by the names of manifests.yaml
        self._splits: tuple[Samples, Samples] | None = None

    @abstractmethod
    def read(self) -> tuple[Samples, Samples]:
        """Read the annotations of the training and the held-out split; InputError on trouble."""

    @abstractmethod
    def transform(self, train: bool) -> Transform:
        """Return (image, target) -> sample, augmenting when `train`."""

    @abstractmethod
    def collate(self, samples: list[Any]) -> Any:
        """Join samples to a batch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; of the foreground only for detection (label 1 is the first), of all indices otherwise."""
        return self.splits[0].classes

    def for_task(self) -> dict[str, Any]:
        """What a task has to know of its data, as arguments of its class."""
        return {"classes": self.classes}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of a training sample as the network sees it."""
        return (len(self.mean), *self.size)

    @property
    def splits(self) -> tuple[Samples, Samples]:
        """Training and held-out samples after `subset` and `val_subset`; read and checked at the first use."""
        if self._splits is None:
            self.prepare_data()
            train, val = self.read()
            self._check_classes(train)
            self._splits = (self._cut(train, self.subset, "subset"), self._cut(val, self.val_subset, "val_subset"))
        return self._splits

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations and check the layout. Raises InputError naming file, field, found, expected.

        What needs the pixels is checked as they are loaded (`inspection.inspect_data` loads all).
        """
        train, val = self.splits
        if self.trains and len(train) < self.batch_size:
            raise unexpected("data.batch_size", self.batch_size, f"at most the {len(train)} training samples")
        if not len(val):
            raise unexpected(self.root, "no held-out samples", "at least one")

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of task, classes, and names and annotations of all samples; no paths, no pixels."""
        digest = hashlib.sha256(json.dumps([self.task, self.classes]).encode())
        for split in self.identities():
            digest.update(b"split")
            for identity in split:
                digest.update(len(identity).to_bytes(8, "little") + identity)
        return digest.hexdigest()

    def identities(self) -> tuple[list[bytes], ...]:
        """Names and annotations of all samples, split by split: what the fingerprint is made of."""
        return tuple([samples.identity(int(index)) for index in samples.indices] for samples in self.splits)

    def train_dataloader(self) -> DataLoader:
        """Augmented training samples in a seeded random order; the last incomplete batch is dropped."""
        if not self.trains:
            found = "no folder train, so no images to train on"
            raise unexpected(self.root, found, REMEDY)
        view = View(self.splits[0], self.transform(train=True), self.seed)
        return self._loader(view, sampler=Shuffle(len(view), self.seed), drop_last=True)

    def unlabelled_dataloader(self) -> DataLoader:
        """What a network learns from a teacher on: training samples, of which the targets are not to be read.

        Where the first split is for calibration alone, its samples in a seeded random order under the evaluation
        transform; the last incomplete batch is dropped.
        """
        if self.trains:
            return self.train_dataloader()
        if len(self.splits[0]) < self.batch_size:
            raise unexpected(
                "data.batch_size", self.batch_size, f"at most the {len(self.splits[0])} calibration images"
            )
        view = View(self.splits[0], self.transform(train=False), self.seed)
        return self._loader(view, sampler=Shuffle(len(view), self.seed), drop_last=True)

    def calibration_dataloader(self) -> DataLoader:
        """Training samples in order under the evaluation transform."""
        return self._loader(View(self.splits[0], self.transform(train=False), None))

    def val_dataloader(self) -> DataLoader:
        """Held-out samples in order under the evaluation transform."""
        return self._loader(View(self.splits[1], self.transform(train=False), None))

    def _loader(self, view: View, **how: Any) -> DataLoader:
        return Loader(
            view,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            collate_fn=ErrorCollate(self.collate),
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else each epoch would draw from the global one
            **how,
        )

    def _check_classes(self, train: Samples) -> None:
        """Say which classes never occur in the training samples."""
        if self.trains:
            seen = train.seen()
            absent = [name for index, name in enumerate(train.classes) if index not in seen]
            if absent:
                names = ", ".join(absent[:ABSENT_NAMED]) + (", ..." if len(absent) > ABSENT_NAMED else "")
                text = f"{len(absent)} of {len(train.classes)} classes never occur in the training samples: {names}"
                say(self.root, f"{text}{self.why_absent(names, seen)}")

    def why_absent(self, names: str, seen: set[int]) -> str:
        """What to add where only the classes `seen` occur; InputError where nothing can be learned from those."""
        return ""

    def _cut(self, samples: Samples, count: int | None, field: str) -> Samples:
        if count is None:
            return samples
        if count > len(samples):
            raise unexpected(f"data.{field}", count, f"at most the {len(samples)} samples of that split")
        return samples.cut(first_balanced(samples.labels(), count))


def first_balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Return positions of the first `count` samples, taken round robin over the labels, in ascending order."""
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        rank[where] = np.arange(len(where))
    return np.sort(np.lexsort((labels, rank))[:count])
