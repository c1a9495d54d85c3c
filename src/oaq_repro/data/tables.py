"""Classification of rows of a table: numbers in the place of an image, each a channel of one pixel."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ClassificationData
from oaq_repro.data.loading import Samples
from oaq_repro.fields import NO_SCIENCE, Count, Seed, Text, Workers


class TableSamples(Samples):
    """Rows float32 [N, M] with classes int64 [N]; what is loaded is `(row - mean) / std`, float64 [M] each."""

    def __init__(
        self, classes: tuple[str, ...], features: np.ndarray, targets: np.ndarray, mean: np.ndarray, std: np.ndarray
    ) -> None:
        super().__init__(classes, len(targets))
        self.features, self.targets, self.mean, self.std = features, targets, mean, std

    def load(self, index: int) -> tuple[torch.Tensor, int]:
        """Return a row float32 [M, 1, 1] and its class."""
        values = ((self.features[index] - self.mean) / self.std).astype(np.float32)
        return torch.from_numpy(values)[:, None, None], int(self.targets[index])

    def identity(self, index: int) -> bytes:
        """Numbers and class: there is no name."""
        return self.features[index].tobytes() + int(self.targets[index]).to_bytes(2, "little")

    def labels(self) -> np.ndarray:
        """Class of every used row."""
        return self.targets[self.indices]


class TableData(ClassificationData):
    """Batches (rows float32 [N, M, 1, 1], classes int64 [N]) of tables that `read` returns as TableSamples."""

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
        super().__init__(
            root=root, batch_size=batch_size, image_size=1, seed=seed, num_workers=num_workers, subset=subset,
            val_subset=val_subset, mean=(0.0,), std=(1.0,),
        )  # fmt: skip

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """A number is a channel of one pixel."""
        return (self.splits[0].features.shape[1], 1, 1)  # type: ignore[attr-defined]

    def transform(self, train: bool) -> Transform:
        """None."""
        return _as_it_is


def _as_it_is(row: Any, target: Any) -> Any:
    return row, target
