"""Augmentation and evaluation protocols of the benchmarks, in torchvision.transforms.v2."""

from collections.abc import Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from oaq_repro.data.images import IGNORE

BILINEAR = v2.InterpolationMode.BILINEAR


def finish(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    """uint8 -> float32, normalised, plain tensors."""
    scale = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    return [v2.ToDtype(scale, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]


def fill_colour(mean: Sequence[float]) -> list[float]:
    """Return the colour of padding: the mean, as uint8 values."""
    return [float(round(255 * value)) for value in mean]


def imagenet(size: int, train: bool, crop_fraction: float, mean: Sequence[float], std: Sequence[float]) -> v2.Compose:
    """ImageNet: random resized crop (area 8-100 %) and flip; resize to size / crop_fraction, centre in evaluation."""
    if train:
        steps = [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.Resize(round(size / crop_fraction), antialias=True), v2.CenterCrop(size)]
    return v2.Compose([*steps, *finish(mean, std)])


def small_images(
    size: tuple[int, int], train: bool, padding: int, flip: float, mean: Sequence[float], std: Sequence[float]
) -> v2.Compose:
    """CIFAR: zero padding (4 pixels of 32), random crop and flip; the image as it is in evaluation."""
    steps: list[v2.Transform] = [v2.Resize(size, antialias=True)]
    if train:
        steps += [v2.RandomCrop(size, padding=padding), v2.RandomHorizontalFlip(flip)]
    return v2.Compose([*steps, *finish(mean, std)])


def detection(
    size: tuple[int, int],
    train: bool,
    *,
    photometric: bool,
    zoom_out: float,
    iou_crop: bool,
    flip: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> v2.Compose:
    """SSD (arXiv 1512.02325, section 2.2): photometric distortion, zoom out on the mean, IoU crop, flip, square resize.

    The resize has no antialias filter, as in SSD's code and torchvision's, whose checkpoints expect that.
    """
    steps: list[v2.Transform] = []
    if train:
        if photometric:
            steps.append(v2.RandomPhotometricDistort())
        if zoom_out > 0:
            steps.append(v2.RandomZoomOut(fill={tv_tensors.Image: fill_colour(mean), "others": 0}, p=zoom_out))
        if iou_crop:
            steps.append(v2.RandomIoUCrop())
        if flip > 0:
            steps.append(v2.RandomHorizontalFlip(flip))
    steps.append(v2.Resize(size, antialias=False))
    if train:  # drops what the crop cut away; evaluation keeps every box
        steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(labels_getter=_per_box)]
    return v2.Compose([*steps, *finish(mean, std)])


def _per_box(sample: Any) -> tuple[torch.Tensor, ...]:
    target = sample[1]
    return target["labels"], target["iscrowd"], target["area"]


class RandomScale(v2.Transform):
    """Resize image and mask by one random factor of their own size (DeepLab: 0.5 to 2)."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the factor; the new size is at least one pixel."""
        height, width = F.get_size(flat_inputs[0])
        factor = float(torch.empty(1).uniform_(self.low, self.high))
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize: bilinear for images, nearest for masks."""
        return self._call_kernel(F.resize, inpt, params["size"], interpolation=BILINEAR, antialias=True)


class FitAndPad(v2.Transform):
    """Pad right and below to a fixed size; what is larger is first scaled down to fit, keeping its aspect ratio."""

    def __init__(self, size: tuple[int, int], fill: dict[Any, Any]) -> None:
        super().__init__()
        self.size, self.fill = size, fill

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Compute the new size (None: keep) and the padding."""
        height, width = F.get_size(flat_inputs[0])
        factor = min(1.0, self.size[0] / height, self.size[1] / width)
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        padding = [0, 0, self.size[1] - size[1], self.size[0] - size[0]]
        return {"size": size if factor < 1 else None, "padding": padding}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize where needed, then pad with the fill of the input's type."""
        if params["size"] is not None:
            inpt = self._call_kernel(F.resize, inpt, params["size"], interpolation=BILINEAR, antialias=True)
        fill = self.fill[type(inpt)]
        return self._call_kernel(F.pad, inpt, padding=params["padding"], fill=fill)


def segmentation(
    size: tuple[int, int],
    train: bool,
    *,
    scale_range: tuple[float, float],
    flip: float,
    eval_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> v2.Compose:
    """DeepLab (arXiv 1706.05587, section 4): random scale, crop, flip; whole images padded to one size in evaluation.

    Padding is the mean colour in the image and 255 (ignored) in the mask.
    """
    fill: dict[Any, Any] = {tv_tensors.Image: fill_colour(mean), tv_tensors.Mask: IGNORE}
    if train:
        steps = [
            RandomScale(*scale_range),
            v2.RandomCrop(size, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(flip),
        ]
    else:
        steps = [FitAndPad(eval_size, fill)]
    return v2.Compose([*steps, *finish(mean, std)])
