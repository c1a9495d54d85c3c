from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oaq_repro.data.images import read_image, read_mask
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


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(GREY).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (3, 6, 8)


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
    assert np.array_equal(read_mask(tmp_path / "mask.png", 3, (2, 3)).numpy(), indices)


def test_mask_defects(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((2, 3), 3, dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match=r"mask\.png: found class index 3; expected 0 to 2"):
        read_mask(path, 3, (2, 3))
    with pytest.raises(InputError, match=r"mask\.png: found a mask of 3x2 pixels; expected 2x3"):
        read_mask(path, 4, (3, 2))
    Image.fromarray(np.zeros((2, 3, 3), dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match=r"mask\.png: found a mask of mode RGB"):
        read_mask(path, 4, (2, 3))
