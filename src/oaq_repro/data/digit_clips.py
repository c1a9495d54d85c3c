"""Sequences made from scikit-learn's digit scans, on which a policy that chooses per frame can be tried at once.

This is no video data. A sequence is T scans of one digit, each a real one and another, placed somewhere on a canvas of
12x12 pixels. A frame is easy (the scan), hard (blurred and noisy, or of a fifth of the contrast) or covered (noise
only, of the same mean and deviation whatever the digit). So it is known which frames are worth a look, which of real
videos it is not, and an oracle can be computed.
"""

from typing import Any, Literal

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.digits import CLASSES, scans
from oaq_repro.data.loading import Samples
from oaq_repro.data.video import VideoData
from oaq_repro.fields import Count, Fraction, Size

CANVAS = 12
KINDS = ("easy", "hard", "covered")
CONTRAST = 0.2
NOISE = 40.0
"""Standard deviation, of pixels of 0 to 255."""
COVER = (80.0, 60.0)
"""Mean and standard deviation of a covered frame's pixels, those of an ordinary frame or so."""

Hard = Literal["blur", "contrast"]


class ClipSamples(Samples):
    """Sequences in memory, uint8 [N, T, 1, H, W], with labels [N] and kinds of frames [N, T]."""

    def __init__(self, clips: np.ndarray, labels: np.ndarray, kinds: np.ndarray) -> None:
        super().__init__(CLASSES, len(clips))
        self.clips, self.targets, self.kinds = clips, labels, kinds

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return all frames as one image of [T, 1, H, W], which transforms treat alike, and the class."""
        return tv_tensors.Image(torch.from_numpy(self.clips[index].copy())), int(self.targets[index])

    def identity(self, index: int) -> bytes:
        """Pixels and label: there is no name."""
        return self.clips[index].tobytes() + int(self.targets[index]).to_bytes(2, "little")

    def labels(self) -> np.ndarray:
        """Class of every used sequence."""
        return self.targets[self.indices]


class DigitClips(VideoData):
    """The sequences: `clips` for training, `val_clips` from the held-out scans, which no training sequence shows.

    The draws are part of the data, so that all seeds of a run see the same sequences. hard: what makes frames hard.
    easy, covered: parts of the frames; the others are hard.
    """

    kinds = KINDS

    def __init__(
        self,
        *,
        root: None = None,
        clips: Count = 960,
        val_clips: Count = 720,
        hard: Hard = "contrast",
        easy: Fraction = 0.35,
        covered: Fraction = 0.3,
        frames: Size = 6,
        **common: Any,
    ) -> None:
        super().__init__(root=root, frames=frames, **common)
        self.clip_counts, self.hard = (clips, val_clips), hard
        hard_part = max(0.0, 1 - easy - covered)
        parts = np.array([easy, hard_part, covered])
        self.parts = parts / parts.sum()

    def read(self) -> tuple[ClipSamples, ClipSamples]:
        """Draw the sequences of both splits."""
        train, val = (self._drawn(train, count) for train, count in zip((True, False), self.clip_counts, strict=True))
        return train, val

    def kinds_of_frames(self) -> np.ndarray:
        """Of the held-out sequences."""
        held_out = self.splits[1]
        assert isinstance(held_out, ClipSamples)
        return held_out.kinds[held_out.indices]

    def transform(self, train: bool) -> Transform:
        """A random shift of the whole sequence by one pixel in training."""
        steps: list[v2.Transform] = [v2.Resize(self.size, antialias=True)] if self.size != (CANVAS, CANVAS) else []
        if train:
            steps.append(v2.RandomCrop(self.size, padding=max(1, self.size[0] // CANVAS)))
        return v2.Compose([*steps, *transforms.finish(self.mean, self.std)])

    def _drawn(self, train: bool, count: int) -> ClipSamples:
        """`count` sequences, digits in turn."""
        images, digits = scans(train)
        rng = np.random.default_rng([2021, int(train)])
        labels = np.arange(count) % len(CLASSES)
        kinds = rng.choice(len(KINDS), size=(count, self.frames), p=self.parts)
        clips = np.zeros((count, self.frames, 1, CANVAS, CANVAS), np.uint8)
        for clip, label in enumerate(labels):
            own = np.flatnonzero(digits == label)
            chosen = rng.choice(own, size=self.frames, replace=self.frames > len(own))
            for frame, (scan, kind) in enumerate(zip(images[chosen], kinds[clip], strict=True)):
                clips[clip, frame, 0] = self._frame(scan, KINDS[kind], rng)
        return ClipSamples(clips, labels.astype(np.int64), kinds.astype(np.int64))

    def _frame(self, scan: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
        """A scan [8, 8] somewhere on the canvas, uint8 [12, 12]."""
        canvas = np.zeros((CANVAS, CANVAS))
        top, left = rng.integers(0, CANVAS - scan.shape[0] + 1, size=2)
        canvas[top : top + scan.shape[0], left : left + scan.shape[1]] = scan
        if kind == "covered":
            canvas = rng.normal(*COVER, size=canvas.shape)
        elif kind == "hard" and self.hard == "contrast":
            canvas = CONTRAST * canvas
        elif kind == "hard":
            canvas = _blurred(canvas) + rng.normal(0.0, NOISE, size=canvas.shape)
        return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _blurred(image: np.ndarray) -> np.ndarray:
    """The mean of 3x3 pixels."""
    padded = np.pad(image, 1)
    height, width = image.shape
    return np.mean([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
