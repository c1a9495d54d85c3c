import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from oaq_repro.data.coco import CocoDetection
from oaq_repro.data.notes import DataWarning
from oaq_repro.data.voc import VOC_CLASSES, VocDetection, VocSegmentation
from oaq_repro.errors import InputError
from oaq_repro.settings.schema import build

PLAIN = {"photometric": False, "zoom_out": 0.0, "iou_crop": False, "flip": 0.0}


def test_detection_batches(voc: Path, common: dict[str, Any]) -> None:
    data = VocDetection(root=voc, **common)
    data.setup()
    assert data.task == "detection" and data.classes == ("cat", "dog") and data.input_shape == (3, 32, 32)
    ((images, targets),) = list(data.val_dataloader())
    assert images.shape == (1, 3, 32, 32) and images.dtype == torch.float32
    target = targets[0]
    # VOC's (1, 1, 20, 15) is pixels 0 to 19 and 0 to 14; 40x30 is resized to 32x32
    assert torch.allclose(target["boxes"][0], torch.tensor([0, 0, 20 * 32 / 40, 15 * 32 / 30]))
    assert type(target["boxes"]) is torch.Tensor and target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [1, 2] and target["iscrowd"].tolist() == [0, 1]
    assert target["size"] == (30, 40) and target["image_id"] == 0
    assert target["area"].tolist() == [300.0, 30.0 * 25.0]


def test_tasks_measure_voc_by_its_own_rules(voc: Path, coco: Path, common: dict[str, Any]) -> None:
    assert VocDetection(root=voc, **common).for_task() == {"classes": ("cat", "dog"), "voc": True}
    assert CocoDetection(root=coco, **common).for_task() == {"classes": ("cat", "dog")}


def test_training_never_sees_difficult_boxes(voc: Path, common: dict[str, Any]) -> None:
    ((_, targets),) = list(VocDetection(root=voc, **PLAIN, **common).train_dataloader())
    assert [target["labels"].tolist() for target in targets] == [[1], [1]]


def test_images_without_a_box_are_no_training_samples(voc: Path, common: dict[str, Any], tmp_path: Path) -> None:
    xml = voc / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1"))
    assert len(VocDetection(root=voc, **common).splits[0]) == 1


def test_augmented_boxes_stay_inside(voc: Path, common: dict[str, Any]) -> None:
    data = VocDetection(root=voc, **common)
    loader, counts = data.train_dataloader(), set()
    for _ in range(30):
        for images, targets in loader:
            assert images.isfinite().all()
            for target in targets:
                boxes = target["boxes"]
                counts.add(len(boxes))
                assert boxes.shape == (len(boxes), 4) and len(target["labels"]) == len(target["area"]) == len(boxes)
                assert (boxes >= 0).all() and (boxes <= 32).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert 1 in counts


def test_zoom_out_can_leave_no_box(voc: Path, common: dict[str, Any]) -> None:
    """A box smaller than a pixel after zooming out goes; the batch has an image without boxes."""
    for name in "ab":
        xml = voc / "Annotations" / f"{name}.xml"
        xml.write_text(xml.read_text().replace("<xmax>20</xmax><ymax>15</ymax>", "<xmax>2</xmax><ymax>2</ymax>"))
    loader = VocDetection(root=voc, **(PLAIN | {"zoom_out": 1.0}), **(common | {"image_size": 8})).train_dataloader()
    ((images, targets),) = list(loader)
    assert images.shape == (2, 3, 8, 8)
    assert all(target["boxes"].shape == (0, 4) and target["labels"].shape == (0,) for target in targets)


@pytest.fixture
def devkit(tmp_path: Path, voc: Path) -> Path:
    root = tmp_path / "benchmark"
    for year, sets in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
        folder = root / "VOCdevkit" / year
        folder.mkdir(parents=True)
        for part in ("JPEGImages", "Annotations"):
            (folder / part).symlink_to(voc / part)
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        for name in sets:
            (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("c\n" if name == "test" else "a\nb\n")
    return root


@pytest.mark.parametrize(("year", "train"), [("07", 2), (7, 2), ("12", 2), (12, 2), ("07+12", 4)])
def test_devkit_years(devkit: Path, common: dict[str, Any], year: Any, train: int) -> None:
    data = build("data", {"kind": "voc_detection", "root": str(devkit), "year": year, **common})
    assert data.classes == VOC_CLASSES and len(data.splits[0]) == train and len(data.splits[1]) == 1


def test_devkit_defects(devkit: Path, common: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.year: found '08', expected '07', '12' or '07\+12'"):
        build("data", {"kind": "voc_detection", "root": str(devkit), "year": "08", **common})
    with pytest.raises(InputError, match="found neither VOCdevkit/VOC2007 nor VOC2007"):
        VocDetection(root=tmp_path, year="07", **common).setup()
    with pytest.raises(InputError, match="nowhere: found no such folder"):
        VocDetection(root=tmp_path / "nowhere", **common).setup()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmin>1<", "<xmin>25<", r"object 1/bndbox: found \(25, 1, 20, 15\); expected min below max"),
        ("<xmin>1<", "<xmin>nan<", r"object 1/bndbox/xmin: found 'nan'; expected a finite number"),
        ("<xmin>1<", f"<xmin>{'9' * 400}<", r"object 1/bndbox/xmin: found '999\d+\.\.\.9+'; expected a finite number"),
        ("<xmin>1</xmin>", "", r"object 1/bndbox/xmin: found no such field; expected a number"),
        ("<xmin>1<", "<xmin>one<", r"object 1/bndbox/xmin: found 'one'; expected a finite number"),
        ("<name>cat<", "<name>cow<", r"object 1/name: found 'cow'; expected one of cat, dog"),
        ("<name>cat</name>", "", r"object 1/name: found 'nothing'"),
        ("<width>40<", "<width>-40<", r"size: found a size of -40x30 pixels; expected at least 1x1"),
        ("<width>40<", "<width>40.5<", r"size: found '40\.5'; expected an integer"),
        ("<width>40<", "<width>99999999<", r"size: found a size of 99999999x30 pixels; expected .* at most 89 million"),
        ("</annotation>", "", r"a\.xml: found a damaged xml"),
    ],
)
def test_annotation_defects(voc: Path, common: dict[str, Any], old: str, new: str, message: str) -> None:
    xml = voc / "Annotations" / "a.xml"
    assert old in xml.read_text()
    xml.write_text(xml.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        VocDetection(root=voc, classes=["cat", "dog"], **common).setup()
    assert str(xml) in str(caught.value)


def edit(xml: Path, *changes: tuple[str, str]) -> None:
    text = xml.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    xml.write_text(text)


EMPTY = "<object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"


def test_border_and_empty_boxes_are_tolerated(voc: Path, common: dict[str, Any]) -> None:
    edit(
        voc / "Annotations" / "a.xml",
        ("<xmin>1<", "<xmin>0<"),
        ("<xmax>20<", "<xmax>41<"),
        ("</annotation>", EMPTY + "</annotation>"),
    )
    data = VocDetection(root=voc, **common)
    with pytest.warns(DataWarning, match=r"train\.txt: boxes without width or height, dropped: 1 \(.*object 3\)$"):
        data.setup()
    assert data.splits[0].records[0].boxes.tolist() == [[0, 0, 40, 15]]


@pytest.mark.parametrize(
    ("change", "box"),
    [(("<xmax>20<", "<xmax>44<"), [0, 0, 40, 15]), (("<xmin>1<", "<xmin>-3<"), [0, 0, 20, 15])],
)
def test_boxes_that_reach_out_are_clipped(
    voc: Path, common: dict[str, Any], change: tuple[str, str], box: list[float]
) -> None:
    edit(voc / "Annotations" / "a.xml", change)
    data = VocDetection(root=voc, **common)
    expected = r"train\.txt: boxes that reach out of their images, clipped: 1 \(first: a\.xml: object 1/bndbox\)$"
    with pytest.warns(DataWarning, match=expected):
        data.setup()
    assert data.splits[0].records[0].boxes.tolist() == [box]


def test_a_box_that_is_wholly_outside_is_refused(voc: Path, common: dict[str, Any]) -> None:
    edit(voc / "Annotations" / "a.xml", ("<xmin>1<", "<xmin>50<"), ("<xmax>20<", "<xmax>60<"))
    with pytest.raises(InputError, match=r"a\.xml: object 1/bndbox: found box .*; expected it inside .* 40x30"):
        VocDetection(root=voc, **common).setup()


@pytest.mark.parametrize(
    "change",
    [
        ("<size><width>40</width><height>30</height><depth>3</depth></size>", ""),
        ("<width>40</width>", ""),
        ("<width>40<", "<width>0<"),
        ("<width>40</width><height>30<", "<width></width><height>0<"),
    ],
)
def test_a_size_that_is_absent_is_the_image_s(voc: Path, common: dict[str, Any], change: tuple[str, str]) -> None:
    plain = VocDetection(root=voc, **common).fingerprint()
    edit(voc / "Annotations" / "a.xml", change)
    data = VocDetection(root=voc, **common)
    with pytest.warns(DataWarning, match=r"absent or 0, taken from the images: 1 \(first: a\.xml\)"):
        data.setup()
    assert data.fingerprint() == plain


def test_a_photograph_turned_by_exif(voc: Path, common: dict[str, Any]) -> None:
    """Annotations in the orientation that viewers show, and in that of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = voc / "JPEGImages" / "c.jpg"
    with Image.open(path) as image:
        image.save(path, exif=exif)  # stored 40x30, shown 30x40
    ((stored, targets),) = list(VocDetection(root=voc, **common).val_dataloader())
    assert targets[0]["size"] == (30, 40)
    edit(
        voc / "Annotations" / "c.xml",
        ("<width>40</width><height>30<", "<width>30</width><height>40<"),
        ("<xmax>40</xmax><ymax>30<", "<xmax>30</xmax><ymax>40<"),
    )
    ((shown, targets),) = list(VocDetection(root=voc, **common).val_dataloader())
    assert targets[0]["size"] == (40, 30) and not torch.equal(stored, shown)
    for size in ("<width>30</width><height>40</height>", "<width>0</width><height>0</height>"):
        xml = voc / "Annotations" / "c.xml"
        xml.write_text(re.sub(r"<width>.*</height>", size, xml.read_text()))
        assert VocDetection(root=voc, **common).splits[1].records[0].size == (40, 30)


def rename(voc: Path, old: str, new: str) -> None:
    for folder, suffix in (("JPEGImages", ".jpg"), ("Annotations", ".xml"), ("SegmentationClass", ".png")):
        (voc / folder / f"{old}{suffix}").rename(voc / folder / f"{new}{suffix}")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a", "a.jpg"),
        ("a", "a.JPG"),
        ("a", "  a  "),
        ("my photo (1)", "my photo (1)"),
        ("my photo (1)", "my photo (1).jpg"),
        ("my photo 1", "my photo 1"),  # no flag of a class list: an image has the whole name
        ("a.b", "a.b"),
        ("a", "a  1"),
        ("a", "a -1"),
        ("my photo 1", "my photo 1 -1"),
    ],
)
def test_names_in_lists(voc: Path, common: dict[str, Any], name: str, line: str) -> None:
    if name != "a":
        rename(voc, "a", name)
    for kind in ("Main", "Segmentation"):
        (voc / "ImageSets" / kind / "train.txt").write_text(f"{line}\nb\n")
    detection, segmentation = VocDetection(root=voc, **common), VocSegmentation(root=voc, **common)
    assert detection.splits[0].records[0].path.stem == name
    assert segmentation.splits[0].files[0].image.stem == name


def test_one_image_under_two_names_in_a_list(voc: Path, common: dict[str, Any]) -> None:
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\na.jpg\n")
    with pytest.raises(InputError, match=r"train\.txt: found a more than once; expected every image once"):
        VocDetection(root=voc, **common).setup()


def test_missing_lists(voc: Path, common: dict[str, Any]) -> None:
    main = voc / "ImageSets" / "Main"
    (main / "train.txt").rename(main / "trainval.txt")
    (main / "val.txt").rename(main / "test.txt")
    message = r"Main/train\.txt: found no such file{}; expected one that you write: the name of an image on each line"
    with pytest.raises(InputError, match=message.format(r" \(but test\.txt, trainval\.txt\)")):
        VocDetection(root=voc, **common).setup()
    shutil.rmtree(voc / "ImageSets")
    with pytest.raises(InputError, match=message.format("")):
        VocDetection(root=voc, **common).setup()


def test_two_images_of_one_name(voc: Path, common: dict[str, Any]) -> None:
    Image.new("RGB", (40, 30)).save(voc / "JPEGImages" / "a.png")
    for kind in (VocDetection, VocSegmentation):
        with pytest.raises(InputError, match=r"a\.png: found a\.jpg beside it; expected one file of a name"):
            kind(root=voc, **common).setup()


def test_classes_that_never_occur_are_named(voc: Path, common: dict[str, Any]) -> None:
    with pytest.warns(DataWarning, match=r"voc: 1 of 3 classes never occur in the training samples: cow"):
        for name in "ab":
            edit(voc / "Annotations" / f"{name}.xml", ("<difficult>1<", "<difficult>0<"))
        VocDetection(root=voc, classes=["cat", "cow", "dog"], **common).setup()
    with pytest.raises(InputError, match=r"data\.classes: found cat more than once"):
        VocDetection(root=voc, classes=["cat", "cat"], **common)


def test_missing_files(voc: Path, common: dict[str, Any]) -> None:
    (voc / "JPEGImages" / "b.jpg").rename(voc / "kept.jpg")
    with pytest.raises(InputError, match=r"JPEGImages/b\.jpg: found no such file"):
        VocDetection(root=voc, **common).setup()
    (voc / "kept.jpg").rename(voc / "JPEGImages" / "b.jpg")
    (voc / "Annotations" / "c.xml").unlink()
    with pytest.raises(InputError, match=r"c\.xml: found no such file"):
        VocDetection(root=voc, **common).setup()
    (voc / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(InputError, match=r"val\.txt: found an empty list"):
        VocDetection(root=voc, **common).setup()
    (voc / "ImageSets" / "Main" / "val.txt").write_text("a\na\n")
    with pytest.raises(InputError, match=r"val\.txt: found a more than once"):
        VocDetection(root=voc, **common).setup()
    (voc / "ImageSets" / "Main" / "val.txt").unlink()
    with pytest.raises(InputError, match=r"val\.txt: found no such file \(but train\.txt\)"):
        VocDetection(root=voc, **common).setup()


def test_image_of_another_size_than_its_annotation(voc: Path, common: dict[str, Any]) -> None:
    xml = voc / "Annotations" / "c.xml"
    xml.write_text(xml.read_text().replace("<width>40<", "<width>41<"))
    with pytest.raises(InputError, match=r"c\.jpg: found 40x30 pixels; expected 41x30"):
        list(VocDetection(root=voc, **common).val_dataloader())


def test_fingerprint_follows_annotations_not_places(voc: Path, common: dict[str, Any], tmp_path: Path) -> None:
    before = VocDetection(root=voc, **common).fingerprint()
    moved = voc.rename(tmp_path / "elsewhere")
    assert VocDetection(root=moved, **common).fingerprint() == before
    xml = moved / "Annotations" / "c.xml"
    xml.write_text(xml.read_text().replace("<xmax>20<", "<xmax>19<"))
    assert VocDetection(root=moved, **common).fingerprint() != before


def test_segmentation_batches(voc: Path, common: dict[str, Any]) -> None:
    data = VocSegmentation(root=voc, eval_size=48, **common)
    data.setup()
    assert data.classes == ("background", *VOC_CLASSES)
    ((images, masks),) = list(data.val_dataloader())
    assert images.shape == (1, 3, 48, 48) and masks.shape == (1, 48, 48) and masks.dtype == torch.int64
    assert (masks[0, :10, :10] == 1).all() and (masks[0, 10:12, :10] == 255).all()
    assert (masks[0, 30:] == 255).all() and (masks[0, :, 40:] == 255).all() and (masks[0, 12:30, :40] == 0).all()
    assert images[0, :, 30:].abs().max() < 0.01  # padded with the mean colour
    for images, masks in data.train_dataloader():
        assert images.shape == (2, 3, 32, 32) and masks.shape == (2, 32, 32)
        assert set(masks.unique().tolist()) <= {0, 1, 255}


def test_larger_images_are_scaled_to_fit(voc: Path, common: dict[str, Any]) -> None:
    ((images, masks),) = list(VocSegmentation(root=voc, eval_size=20, **common).val_dataloader())
    assert images.shape == (1, 3, 20, 20) and (masks[0, 15:] == 255).all() and (masks[0, :4, :4] == 1).all()


def test_segmentation_defects(voc: Path, common: dict[str, Any]) -> None:
    mask = voc / "SegmentationClass" / "c.png"
    with pytest.raises(InputError, match=r"a\.png: found class index 1; expected 0 to 0"):
        list(VocSegmentation(root=voc, classes=["background"], **common).val_dataloader())
    with pytest.raises(InputError, match=r"data\.scale_range"):
        VocSegmentation(root=voc, scale_range=[2, 0.5], **common)
    mask.unlink()
    with pytest.raises(InputError, match=r"SegmentationClass/c\.png: found no such file"):
        VocSegmentation(root=voc, **common).setup()


def test_bccd(shared_data: Path, common: dict[str, Any]) -> None:
    data = VocDetection(root=shared_data / "bccd", **(common | {"image_size": 300}))
    data.setup()
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert (len(data.splits[0]), len(data.splits[1])) == (205, 87)
    boxes = sum(len(record.labels) for samples in data.splits for record in samples.records)
    assert boxes == 3943 - 2  # two of its boxes are points
    images, targets = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 300, 300) and targets[0]["size"] == (480, 640)
