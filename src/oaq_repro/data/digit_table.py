"""The digits as a table: 64 numbers a scan, for networks of tables. A stand-in for tables that are not at hand."""

from typing import Any

import numpy as np

from oaq_repro.data.digits import CLASSES, scans
from oaq_repro.data.tables import TableData, TableSamples


class DigitTable(TableData):
    """scikit-learn's digits by their pixels from 0 to 1, in the split of `digits`; nothing is shifted in training."""

    def __init__(self, *, root: None = None, **common: Any) -> None:
        super().__init__(root=root, **common)

    def read(self) -> tuple[TableSamples, TableSamples]:
        """Return the first 1437 scans, and the last 360 as held-out ones."""
        train, val = (scans(train) for train in (True, False))
        return self._samples(*train), self._samples(*val)

    @staticmethod
    def _samples(images: np.ndarray, labels: np.ndarray) -> TableSamples:
        rows = (images.reshape(len(images), -1) / 255).astype(np.float32)
        return TableSamples(CLASSES, rows, labels, np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
