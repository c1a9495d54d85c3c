import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from oaq_repro.data.images import TURNS, image_size, read_annotated, read_image, read_mask
from oaq_repro.errors import InputError

GREY = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "RGBA", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    expected = Image.fromarray(GREY).convert("RGB").convert(mode)
    expected.save(path)
    image = read_image(path)
    assert image.dtype == torch.uint8 and image.shape == (3, 6, 8)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(expected.convert("RGB")))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png")[0].numpy(), GREY)


def turned(path: Path, orientation: int) -> Path:
    """Write GREY (8 wide, 6 high) with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    path = turned(tmp_path / "turned.png", orientation)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(path)[0].numpy(), expected)
    assert image_size(path) == expected.shape and (expected.shape == (8, 6)) == (orientation in range(5, 9))
    assert len(TURNS) == 7


def test_annotations_of_either_orientation(tmp_path: Path) -> None:
    path = turned(tmp_path / "turned.png", 6)
    displayed, stored = read_annotated(path, (8, 6), "a.xml"), read_annotated(path, (6, 8), "a.xml")
    assert np.array_equal(stored[0].numpy(), GREY) and np.array_equal(displayed[0].numpy(), np.rot90(GREY, -1))
    with pytest.raises(InputError, match=r"turned\.png: found 6x8 pixels; expected 5x8 as a\.xml says"):
        read_annotated(path, (8, 5), "a.xml")


def test_a_broken_exif_block_says_nothing(tmp_path: Path) -> None:
    for block in (b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=block)
        assert read_image(tmp_path / "a.jpg").shape == (3, 6, 8)


def png_header(path: Path, width: int, height: int) -> None:
    """Write a PNG that claims a size and holds almost nothing."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


@pytest.mark.parametrize("side", [10_000, 15_000, 100_000])
def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    png_header(tmp_path / "huge.png", side, side)
    for read in (read_image, image_size, lambda path: read_mask(path, 2)):
        with pytest.raises(InputError, match=r"huge\.png: found .*(pixels|limit)"):
            read(tmp_path / "huge.png")


def test_only_formats_of_photographs_are_opened(tmp_path: Path) -> None:
    """Pillow gives EPS to Ghostscript."""
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg: found a damaged image"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (read_image, image_size, lambda path: read_mask(path, 2)):
        with pytest.raises(InputError, match=r"a\.png: found a folder, a pipe or a device; expected a file"):
            read(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image_names_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"broken\.{suffix}: found a damaged image .*; expected one that decodes"):
        read_image(path)


def test_missing_text_and_float_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: found no such file"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"text\.jpg: found a damaged image"):
        read_image(tmp_path / "text.jpg")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match=r"float\.tif: found an image of floating point"):
        read_image(tmp_path / "float.tif")


def test_mask_keeps_palette_indices(tmp_path: Path) -> None:
    indices = np.array([[0, 1, 2], [255, 1, 0]], dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([7] * 768)
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", 3), indices)


def test_mask_defects(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((2, 3), 3, dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match=r"mask\.png: found class index 3; expected 0 to 2"):
        read_mask(path, 3)
    for mode in ("RGB", "RGBA", "LA"):
        Image.new(mode, (2, 3)).save(path)
        with pytest.raises(InputError, match=rf"mask\.png: found a mask of mode {mode}; expected one index per pixel"):
            read_mask(path, 4)
