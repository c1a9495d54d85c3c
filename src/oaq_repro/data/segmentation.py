"""Segmentation: images with masks, and the data module that VOC, COCO, CamVid and the scenes share."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors

from oaq_repro.data import transforms
from oaq_repro.data.base import DataModule, Transform
from oaq_repro.data.checks import check_fraction, check_sides, unexpected
from oaq_repro.data.images import read_image, read_mask
from oaq_repro.data.loading import Samples


@dataclass(frozen=True, slots=True)
class MaskFile:
    """An image and the PNG with its class indices."""

    image: Path
    mask: Path


class MaskFileSamples(Samples):
    """Images whose masks are files."""

    def __init__(self, classes: tuple[str, ...], files: list[MaskFile]) -> None:
        super().__init__(classes, len(files))
        self.files = files

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return image and mask of the same size, uint8."""
        image = read_image(self.files[index].image)
        return image, read_mask(self.files[index].mask, len(self.classes), (image.shape[1], image.shape[2]))

    def identity(self, index: int) -> bytes:
        """File name and the hash of the mask's file."""
        file = self.files[index]
        try:
            content = hashlib.sha256(file.mask.read_bytes()).digest()
        except OSError as error:
            raise unexpected(file.mask, f"an unreadable mask ({error.strerror})", "a PNG") from None
        return file.image.name.encode() + b"\0" + content


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
        scale_range: Sequence[float] = (0.5, 2.0),
        flip: float = 0.5,
        eval_size: int | Sequence[int] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        low, high = (scale_range[0], scale_range[-1])
        if len(scale_range) != 2 or not 0 < low <= high:
            raise unexpected("data.scale_range", f"{list(scale_range)}", "[low, high], 0 < low <= high")
        self.scale_range, self.flip = (low, high), check_fraction("flip", flip)
        self.eval_size = self.size if eval_size is None else check_sides("eval_size", eval_size)

    def transform(self, train: bool) -> Transform:
        """DeepLab's augmentation, or padding alone."""
        how: dict[str, Any] = {"scale_range": self.scale_range, "flip": self.flip, "eval_size": self.eval_size}
        return transforms.segmentation(self.size, train, mean=self.mean, std=self.std, **how)

    def collate(self, samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack images and masks."""
        images, masks = zip(*samples, strict=True)
        return torch.stack(images), torch.stack(masks)
