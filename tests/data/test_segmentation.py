"""What masks mean: 255, classes without a pixel, colours, sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oaq_repro.data.inspection import inspect_data
from oaq_repro.data.notes import DataWarning
from oaq_repro.data.segmentation import MaskFile, MaskFileSamples
from oaq_repro.data.voc import VocSegmentation
from oaq_repro.errors import InputError


def write_masks(voc: Path, *values: int) -> None:
    """Masks of 40x30 pixels with these values."""
    mask = np.resize(np.array(values, dtype=np.uint8), (30, 40))
    for name in "abc":
        Image.fromarray(mask).save(voc / "SegmentationClass" / f"{name}.png")


@pytest.mark.parametrize("classes", [["background", "cell"], ["background", "cell", "nucleus"]])
def test_255_that_was_meant_as_a_class_is_refused(voc: Path, common: dict[str, Any], classes: list[str]) -> None:
    write_masks(voc, 0, 255)
    names = ", ".join(classes[1:])
    expected = rf"voc: found no pixel of {names} in any training mask, only 0 and 255; expected .*255 means ignored"
    with pytest.raises(InputError, match=expected):
        VocSegmentation(root=voc, classes=classes, **common).setup()


def test_classes_without_a_pixel_are_named(voc: Path, common: dict[str, Any]) -> None:
    classes = ["background", "cell", "nucleus"]
    for values, hint in (((0, 1, 255), "; 255 occurs in the masks and means ignored"), ((0, 1), ""), ((0,), "")):
        write_masks(voc, *values)
        names = ", ".join(classes[len(set(values) - {255}) :])
        with pytest.warns(DataWarning, match=f"never occur in the training samples: {names}{hint}$"):
            VocSegmentation(root=voc, classes=classes, **common).setup()
    write_masks(voc, 0, 1, 2, 255)
    report = inspect_data(VocSegmentation(root=voc, classes=classes, **common))
    assert [finding.state for finding in report.findings] == ["ok"]


def test_classes_are_looked_for_no_longer_than_needed(voc: Path, common: dict[str, Any]) -> None:
    """And in all training masks, not in `subset` of them."""
    write_masks(voc, 0, 1)
    files = [MaskFile(voc / "JPEGImages" / f"{n}.jpg", voc / "SegmentationClass" / f"{n}.png") for n in ("a", "none")]
    assert MaskFileSamples(("background", "cell"), files).seen() == {0, 1}
    write_masks(voc, 0, 255)
    write = np.zeros((30, 40), dtype=np.uint8)
    write[0] = 1
    Image.fromarray(write).save(voc / "SegmentationClass" / "b.png")
    VocSegmentation(root=voc, classes=["background", "cell"], subset=1, **(common | {"batch_size": 1})).setup()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_no_indices(voc: Path, common: dict[str, Any], mode: str) -> None:
    """In a training mask and in a held-out one; checking and training say the same."""
    Image.new(mode, (40, 30)).save(voc / "SegmentationClass" / "c.png")
    data = VocSegmentation(root=voc, **common)
    (finding,) = [f for f in inspect_data(data).findings if f.state == "broken"]
    with pytest.raises(InputError, match=rf"c\.png: found a mask of mode {mode}; expected one index per") as caught:
        list(data.val_dataloader())
    assert finding.text == str(caught.value)


def test_a_mask_of_another_size(voc: Path, common: dict[str, Any]) -> None:
    Image.new("L", (30, 30)).save(voc / "SegmentationClass" / "c.png")
    data = VocSegmentation(root=voc, **common)
    with pytest.raises(InputError, match=r"c\.jpg: found 40x30 pixels; expected 30x30 as its mask .*c\.png says"):
        list(data.val_dataloader())
    assert not inspect_data(data).complete


def test_a_mask_of_a_photograph_turned_by_exif(voc: Path, common: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(voc / "JPEGImages" / "c.jpg") as image:
        image.save(voc / "JPEGImages" / "c.jpg", exif=exif)
    data = VocSegmentation(root=voc, **common)
    image, mask = data.splits[1].load(0)
    assert image.shape == (3, 30, 40) and mask.shape == (30, 40)
    with Image.open(voc / "SegmentationClass" / "c.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_270).save(voc / "SegmentationClass" / "c.png")
    image, mask = data.splits[1].load(0)
    assert image.shape == (3, 40, 30) and mask.shape == (40, 30)
