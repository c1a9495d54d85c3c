"""Reading images and masks: every pixel format becomes RGB or class indices, every defect one InputError."""

import io
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from oaq_repro.data.checks import unexpected

IGNORE = 255
"""Mask value of pixels that neither train nor count (VOC's void)."""

_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_image(name: Path | str, content: bytes | None = None) -> tv_tensors.Image:
    """Decode an image to RGB, uint8 [3, H, W].

    Grey, palette, CMYK and 16-bit images are converted and alpha is dropped. EXIF orientation is
    ignored, as by the readers of the benchmarks: their annotations refer to the stored pixels.
    `content` is the file where it is no file of its own (members of a zip; `name` names it in messages then).
    Raises InputError when it cannot be decoded.
    """
    with _open(name, content) as image:
        if image.mode == "F":
            raise unexpected(name, "an image of floating point pixels", "8 or 16 bits per channel")
        if image.mode.startswith("I"):  # 16-bit grey: PIL would clip instead of scaling
            grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
            pixels = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        else:
            if "transparency" in image.info:  # PIL warns about a palette's alpha, which is dropped anyway
                del image.info["transparency"]
            pixels = np.array(image.convert("RGB"))
    return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())


def read_mask(path: Path, classes: int, size: tuple[int, int]) -> tv_tensors.Mask:
    """Read a PNG of class indices (palette or grey), uint8 [H, W], 255 = ignore.

    `size` is the (H, W) of the image that it belongs to. Raises InputError for a file that is missing,
    cannot be decoded, has colours instead of indices, another size, or an index of no class.
    """
    with _open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise unexpected(path, f"a mask of mode {image.mode}", "one index per pixel (palette or 8-bit grey)")
        mask = np.array(image if image.mode != "1" else image.convert("L").point(lambda v: v // 255))
    if mask.shape != size:
        raise unexpected(path, f"a mask of {mask.shape[1]}x{mask.shape[0]} pixels", f"{size[1]}x{size[0]} as its image")
    highest = int(mask.max(initial=0, where=mask != IGNORE))
    if highest >= classes:
        raise unexpected(path, f"class index {highest}", f"0 to {classes - 1}, or {IGNORE} for ignored pixels")
    return tv_tensors.Mask(torch.from_numpy(mask))


def _open(name: Path | str, content: bytes | None = None) -> Image.Image:
    try:
        image = Image.open(name if content is None else io.BytesIO(content))
        image.load()
    except FileNotFoundError:
        raise unexpected(name, "no such file", "an image") from None
    except _DECODER_ERRORS as error:
        raise unexpected(name, f"a damaged image ({error})", "one that decodes completely") from None
    return image
