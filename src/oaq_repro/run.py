"""One run as it walks through the stages of `experiment`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from oaq_repro.data.base import DataModule
from oaq_repro.results.store import run_folder
from oaq_repro.settings.identity import hash_of, science
from oaq_repro.settings.schema import build
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
