"""Reading images and masks: every pixel format becomes RGB or class indices, every defect one InputError."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from oaq_repro.data.fields import unexpected
from oaq_repro.data.reading import reading

IGNORE = 255
"""Mask value of pixels that neither train nor count (VOC's void)."""
MOST_PIXELS = 89_478_485
"""Of an image, known before it is decoded: a quarter of a gigabyte in RGB, as Pillow's own limit."""
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
"""Formats of photographs and masks. Pillow would also start other programs for some (EPS)."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation tag -> what brings the stored pixels upright."""
SIDEWAYS = 5
"""From this tag on, height and width change places."""


def read_image(
    name: Path | str, content: bytes | None = None, annotated: tuple[int, int] | None = None
) -> tv_tensors.Image:
    """Decode an image to RGB, uint8 [3, H, W].

    Grey, palette, CMYK and 16-bit images are converted and alpha is dropped. The EXIF orientation is applied, except
    where `annotated`, the (H, W) that the image's annotation is for, is that of the stored pixels alone. `content` is
    the file where it is no file of its own (members of a zip; `name` names it in messages then).
    Raises InputError when it cannot be decoded, or has more than MOST_PIXELS.
    """
    image = _upright(_open(name, content), annotated)
    if image.mode == "F":
        raise unexpected(name, "an image of floating point pixels", "8 or 16 bits per channel")
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip instead of scaling
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    else:
        image.info.pop("transparency", None)  # PIL warns about a palette's alpha, which is dropped anyway
        pixels = np.array(image.convert("RGB"))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def image_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of an image as `read_image` gives it, without decoding it."""
    image = _open(path, decode=False)
    return (image.width, image.height) if _orientation(image) >= SIDEWAYS else (image.height, image.width)


def read_mask(path: Path, classes: int) -> np.ndarray:
    """Read a PNG of class indices (palette or grey), uint8 [H, W], 255 = ignore.

    Raises InputError for a file that is missing, cannot be decoded, has colours instead of indices, or an index
    of no class.
    """
    image = _upright(_open(path))
    if image.mode not in ("P", "L", "1"):
        raise unexpected(path, f"a mask of mode {image.mode}", "one index per pixel (palette or 8-bit grey)")
    mask = np.array(image, dtype=np.uint8)
    highest = int(mask.max(initial=0, where=mask != IGNORE))
    if highest >= classes:
        raise unexpected(path, f"class index {highest}", f"0 to {classes - 1}, or {IGNORE} for ignored pixels")
    return mask


def read_annotated(path: Path, size: tuple[int, int], annotation: object) -> tv_tensors.Image:
    """Read the image that an annotation of (H, W) belongs to; InputError where it has another size."""
    image = read_image(path, annotated=size)
    found = (image.shape[1], image.shape[2])
    if found != size:
        raise unexpected(path, f"{found[1]}x{found[0]} pixels", f"{size[1]}x{size[0]} as {annotation} says")
    return image


def check_size(where: object, size: tuple[int, int]) -> None:
    """InputError where (H, W) is that of no image, or of one too large to be decoded."""
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        most = f"at least 1x1, at most {MOST_PIXELS // 10**6} million pixels"
        raise unexpected(where, f"a size of {size[1]}x{size[0]} pixels", most)


def _open(name: Path | str, content: bytes | None = None, decode: bool = True) -> Image.Image:
    with reading(name, "image", "one that decodes completely"):
        image = Image.open(name if content is None else io.BytesIO(content), formats=FORMATS)
        check_size(name, (image.height, image.width))
        if decode:
            image.load()
    return image


def _upright(image: Image.Image, annotated: tuple[int, int] | None = None) -> Image.Image:
    orientation = _orientation(image)
    stored = (image.height, image.width)
    if orientation not in TURNS or (orientation >= SIDEWAYS and stored == annotated != stored[::-1]):
        return image
    return image.transpose(TURNS[orientation])


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # whatever a broken EXIF block makes Pillow raise: it says nothing about the pixels
        return 1
    return found if isinstance(found, int) and found in TURNS else 1
