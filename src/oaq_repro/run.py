"""One run as it walks through the stages of `experiment`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from oaq_repro.data.base import DataModule
from oaq_repro.errors import InputError
from oaq_repro.results.record import RECORD_NAME
from oaq_repro.results.store import load_in_place, run_folder
from oaq_repro.settings.identity import hash_of, science
from oaq_repro.settings.schema import build, read
from oaq_repro.settings.sections import RunSettings


@dataclass(frozen=True)
class Run:
    """What was asked for, and the data it was asked of; what names the run and where it writes follow from them.

    settings: all of them, checked, with defaults. data: set up. fingerprint: what the data are, SHA-256. made_images:
    float32 [N, C, H, W], those that calibration looks at in the place of training images.
    """

    settings: RunSettings
    data: DataModule
    fingerprint: str
    made_images: Tensor | None = None

    @classmethod
    def prepared(cls, settings: RunSettings) -> "Run":
        """Reads the data; InputError for what is wrong with them or with a checkpoint that the settings name."""
        data: DataModule = build("data", settings.data)
        data.prepare_data()
        data.setup()
        made = cls(settings, data, data.fingerprint())
        assert made.hash  # a checkpoint that cannot be read is an error now
        return made

    @classmethod
    def finished(cls, folder: Path, root: Path | None = None) -> "Run":
        """The run whose record lies in `folder`, as it was asked for, on the data that it had.

        root: of the data, where it is no longer the run's. InputError where the record or the data are not at hand, or
        the data are others.
        """
        record = load_in_place((folder / RECORD_NAME).resolve())
        config = dict(record.config)
        if root is not None:
            config["data"] = {**config["data"], "root": str(root)}  # type: ignore[dict-item]
        run = cls.prepared(read(config))
        if run.fingerprint != record.provenance.dataset_fingerprint:
            raise InputError(f"{folder}: found other data than the run's (fingerprint), expected the same")
        return run

    @property
    def seed(self) -> int:
        """Of weights, data order and augmentation."""
        return self.settings.seed

    @cached_property
    def science(self) -> dict[str, Any]:
        """What of the settings changes the numbers; see `settings.identity`."""
        return science(self.settings)

    @cached_property
    def hash(self) -> str:
        """The name that all seeds of the run share, 16 hexadecimal digits."""
        return hash_of(self.science, self.fingerprint)

    @property
    def folder(self) -> Path:
        """Of the record and what belongs to it."""
        return run_folder(self.settings.results, self.hash, self.seed)
