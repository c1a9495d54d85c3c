"""Segmentation: images with masks, and the data module that VOC, COCO, CamVid and the scenes share."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from oaq_repro.data import transforms
from oaq_repro.data.base import DataModule, Transform
from oaq_repro.data.fields import Sides, both_sides, unexpected
from oaq_repro.data.images import IGNORE, read_annotated, read_mask
from oaq_repro.data.loading import Samples
from oaq_repro.data.reading import reading
from oaq_repro.fields import Fraction, Positive


@dataclass(frozen=True, slots=True)
class MaskFile:
    """An image and the PNG with its class indices."""

    image: Path
    mask: Path


class MaskFileSamples(Samples):
    """Images whose masks are files; `void` is an index that is ignored as 255 is."""

    def __init__(self, classes: tuple[str, ...], files: list[MaskFile], void: int | None = None) -> None:
        super().__init__(classes, len(files))
        self.files, self.void = files, void

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return image and mask of the same size, uint8."""
        file, mask = self.files[index], self._mask(index)
        image = read_annotated(file.image, (mask.shape[0], mask.shape[1]), f"its mask {file.mask}")
        return image, tv_tensors.Mask(torch.from_numpy(mask))

    def _mask(self, index: int) -> np.ndarray:
        if self.void is None:
            return read_mask(self.files[index].mask, len(self.classes))
        mask = read_mask(self.files[index].mask, max(len(self.classes), self.void + 1))
        mask[mask == self.void] = IGNORE
        return mask

    def seen(self) -> set[int]:
        """Classes of the masks' pixels, and 255 where it occurs."""
        seen: set[int] = set()
        wanted = set(range(len(self.classes)))
        for index in self.indices:
            seen |= set(np.flatnonzero(np.bincount(self._mask(int(index)).ravel(), minlength=IGNORE + 1)).tolist())
            if wanted <= seen:
                break
        return seen

    def identity(self, index: int) -> bytes:
        """File name and the hash of the mask's file."""
        file = self.files[index]
        with reading(file.mask, "mask", "a PNG of class indices"):
            content = hashlib.sha256(file.mask.read_bytes()).digest()
        return os.fsencode(file.image.name) + b"\0" + content


class SegmentationData(DataModule):
    """Batches (images float32 [N, 3, H, W], masks int64 [N, H, W], 255 = ignored).

    Training crops of `image_size` after a random scale in `scale_range` and a flip. Held-out images are whole, at their
    own scale, padded right and below to `eval_size` (null: `image_size`) with the mean colour and ignored pixels;
    those that are larger are first scaled down, with their masks (nearest), to fit.
    """

    task = "segmentation"

    def __init__(
        self,
        *,
        scale_range: tuple[Positive, Positive] = (0.5, 2.0),
        flip: Fraction = 0.5,
        eval_size: Sides | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        low, high = scale_range
        if low > high:
            raise unexpected("data.scale_range", f"{[low, high]}", "[low, high], low <= high")
        self.scale_range, self.flip = (low, high), flip
        self.eval_size = self.size if eval_size is None else both_sides(eval_size)

    def why_absent(self, names: str, seen: set[int]) -> str:
        """InputError where 255 stands in place of all classes but one: it must have been meant as a class.

        Where several classes occur 255 is by all appearance what it is by convention; that is said.
        """
        if IGNORE not in seen:
            return ""
        if len(seen) <= 2:
            values = " and ".join(str(value) for value in sorted(seen))
            found = f"no pixel of {names} in any training mask, only {values}"
            raise unexpected(self.root, found, "the indices of the classes in the masks; 255 means ignored")
        return "; 255 occurs in the masks and means ignored"

    def transform(self, train: bool) -> Transform:
        """DeepLab's augmentation, or padding alone."""
        how: dict[str, Any] = {"scale_range": self.scale_range, "flip": self.flip, "eval_size": self.eval_size}
        return transforms.segmentation(self.size, train, mean=self.mean, std=self.std, **how)

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack images and masks."""
        images, masks = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(masks)
