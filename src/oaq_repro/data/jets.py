"""The hls4ml jets: five kinds of simulated LHC jets, told apart by 16 features (Duarte et al., JINST 13, 2018)."""

from functools import partial

import numpy as np

from oaq_repro.data.fields import unexpected
from oaq_repro.data.jet_files import CLASSES, SPLITS, read_splits
from oaq_repro.data.reading import MissingError
from oaq_repro.data.tables import TableData, TableSamples


class Jets(TableData):
    """Jets of gluons, light quarks, W, Z and top; features with the mean 0 and the deviation 1 of the training jets.

    `root`: a file (h5, npz, csv) or a folder of such files, with folders train and val or as one table
    (`data.jet_files`).
    """

    benchmark = "jets"

    def read(self) -> tuple[TableSamples, TableSamples]:
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
        mean, std = train[0].mean(0, dtype=np.float64), train[0].std(0, dtype=np.float64)
        made = partial(TableSamples, CLASSES, mean=mean, std=np.where(std > 0, std, 1.0))
        return made(*train), made(*val)
