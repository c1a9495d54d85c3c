"""The hls4ml jets: five kinds of simulated LHC jets, told apart by 16 features (Duarte et al., JINST 13, 2018)."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ClassificationData
from oaq_repro.data.fields import unexpected
from oaq_repro.data.jet_files import CLASSES, FEATURES, SPLITS, Table, read_splits
from oaq_repro.data.loading import Samples
from oaq_repro.data.reading import MissingError
from oaq_repro.fields import NO_SCIENCE, Count, Seed, Text, Workers

SMALLEST_DEVIATION = 1e-12  # a feature that is the same for all jets


class JetSamples(Samples):
    """Features float32 [N, 16] as the files have them, and the `mean` and deviation (`std`) that standardize them."""

    def __init__(self, table: Table, mean: np.ndarray, std: np.ndarray) -> None:
        self.features, self.targets = table
        super().__init__(CLASSES, len(self.targets))
        self.mean, self.std = mean, std

    def load(self, index: int) -> tuple[torch.Tensor, int]:  # type: ignore[override]
        """Return standardized features float32 [16, 1, 1] and class index."""
        values = ((self.features[index] - self.mean) / self.std).astype(np.float32)
        return torch.from_numpy(values)[:, None, None], int(self.targets[index])

    def identity(self, index: int) -> bytes:
        """Features and label: there is no name."""
        return self.features[index].tobytes() + int(self.targets[index]).to_bytes(2, "little")

    def labels(self) -> np.ndarray:
        """Class of every used jet."""
        return self.targets[self.indices]


class Jets(ClassificationData):
    """Jets of gluons, light quarks, W, Z and top; features with the mean 0 and the deviation 1 of the training jets.

    `root`: a file (h5, npz, csv) or a folder of such files, with folders train and val or as one table
    (`data.jet_files`). Batches: features float32 [N, 16, 1, 1], labels int64 [N].
    """

    benchmark = "jets"

    def __init__(
        self,
        *,
        root: Annotated[Text | Path | None, NO_SCIENCE],
        batch_size: Count,
        seed: Annotated[Seed, NO_SCIENCE],
        num_workers: Annotated[Workers, NO_SCIENCE] = 0,
        subset: Count | None = None,
        val_subset: Count | None = None,
    ) -> None:
        given = {"batch_size": batch_size, "seed": seed, "num_workers": num_workers}
        parts = {"subset": subset, "val_subset": val_subset}
        super().__init__(root=root, image_size=1, mean=(0.0,), std=(1.0,), **given, **parts)  # type: ignore[arg-type]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """A feature is a channel of one pixel."""
        return (len(FEATURES), 1, 1)

    def read(self) -> tuple[JetSamples, JetSamples]:
        """Read all files."""
        if self.root is None or not self.root.exists():
            found = "nothing" if self.root is None else "no such file or folder"
            where = "data.root" if self.root is None else self.root
            text = "a file or folder of jets, h5, npz or csv (data.root=... chooses another place)"
            raise unexpected(where, found, text, MissingError)
        train, val, splits = read_splits(self.root)
        sizes = (len(train[1]), len(val[1]))
        self.counts = dict(zip([f"{s}: jets" for s in SPLITS], sizes, strict=True)) if splits else {"jets": sum(sizes)}
        if not sizes[0]:
            raise unexpected(self.root, "no jets", "at least one for training")
        mean = train[0].mean(0, dtype=np.float64)
        made = partial(JetSamples, mean=mean, std=train[0].std(0, dtype=np.float64).clip(SMALLEST_DEVIATION))
        return made(train), made(val)

    def transform(self, train: bool) -> Transform:
        """None."""
        return _as_it_is


def _as_it_is(features: Any, target: Any) -> Any:
    return features, target
