"""scikit-learn's 1797 handwritten digits (8x8 scans of real forms, UCI Optical Recognition of Handwritten Digits)."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ArraySamples, ClassificationData

CLASSES = tuple(str(digit) for digit in range(10))
HELD_OUT = 360
"""The last scans are held out: they are in the order of the forms, so most writers are new."""


def scans(train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return scans uint8 [N, 8, 8] (0 to 255) and labels int64 [N] of the fixed split."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    part = slice(None, -HELD_OUT) if train else slice(-HELD_OUT, None)
    return images[part], digits.target[part].astype(np.int64)


class Digits(ClassificationData):
    """The scans, upscaled to `image_size`; training shifts them by up to an eighth of the side."""

    def __init__(self, *, root: None = None, **common: Any) -> None:
        super().__init__(root=root, **common)

    def read(self) -> tuple[ArraySamples, ArraySamples]:
        """Return the first 1437 scans, and the last 360 as held-out ones."""
        parts = (scans(train) for train in (True, False))
        train, val = (ArraySamples(CLASSES, images[:, None], labels) for images, labels in parts)
        return train, val

    def transform(self, train: bool) -> Transform:
        """Upscale, and a random shift in training."""
        return transforms.small_images(self.size, train, self.size[0] // 8, 0.0, self.mean, self.std)
