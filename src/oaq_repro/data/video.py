"""Clips: T frames of one video each, which tasks see as one sample of [T, C, H, W]."""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch

from oaq_repro.data.base import DataModule
from oaq_repro.fields import Size


class VideoData(DataModule):
    """Batches (clips float32 [N, T, C, H, W], labels int64 [N]). `frames` is T.

    `kinds` names what a frame can be where that is known, as of made-up sequences: `kinds_of_frames` then says it of
    the held-out ones. It is for evaluation only: no network sees it.
    """

    task = "video"
    kinds: tuple[str, ...] = ()

    def __init__(self, *, frames: Size, **common: Any) -> None:
        super().__init__(**common)
        self.frames = frames

    @abstractmethod
    def kinds_of_frames(self) -> np.ndarray | None:
        """What every held-out frame is, as an index of `kinds`: int64 [N, T], in order; None where nobody knows."""

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack clips and labels."""
        clips, labels = zip(*samples, strict=True)
        return torch.stack(clips), torch.tensor(labels, dtype=torch.int64)
