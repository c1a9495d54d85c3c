import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from oaq_repro.data.coco import CocoDetection, CocoSegmentation
from oaq_repro.data.notes import DataWarning
from oaq_repro.data.voc import VOC_CLASSES
from oaq_repro.errors import InputError

Edit = Callable[[Path, Callable[[Any], Any]], None]


def test_detection_batches(coco: Path, common: dict[str, Any]) -> None:
    data = CocoDetection(root=coco, **common)
    data.setup()
    assert data.classes == ("cat", "dog")  # in the order of the category ids, not of the file
    ((images, targets),) = list(data.val_dataloader())
    target = targets[0]
    assert images.shape == (1, 3, 32, 32) and target["image_id"] == 10 and target["size"] == (30, 40)
    scale = torch.tensor([32 / 40, 32 / 30, 32 / 40, 32 / 30])
    assert torch.allclose(target["boxes"], torch.tensor([[2.0, 3, 12, 11], [0, 0, 4, 30]]) * scale)
    assert target["labels"].tolist() == [1, 2] and target["iscrowd"].tolist() == [0, 1]
    assert target["area"].tolist() == [80.0, 120.0]
    ((_, targets),) = list(CocoDetection(root=coco, iou_crop=False, **common).train_dataloader())
    assert [target["labels"].tolist() for target in targets] == [[1], [1]]


def test_images_without_annotations(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    for split in ("train", "val"):
        path = coco / "annotations" / f"instances_{split}2017.json"
        edit_json(path, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] == 11]))
    data = CocoDetection(root=coco, **(common | {"batch_size": 1}))
    assert len(data.splits[0]) == 1 and len(data.splits[1]) == 1
    ((_, targets),) = list(data.val_dataloader())
    assert targets[0]["boxes"].shape == (0, 4)


def _set(place: str, index: int, key: str, value: Any) -> Callable[[Any], Any]:
    return lambda content: content[place][index].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("annotations", 0, "image_id", 99), r"annotation 0: image_id: found 99; expected an id that image"),
        (
            _set("annotations", 0, "category_id", 99),
            r"annotation 0: category_id: found 99; expected an id that category",
        ),
        (_set("annotations", 0, "bbox", [1, 2, 3]), r"annotation 0: bbox: found \[1, 2, 3\]; expected \[x, y, width"),
        (_set("annotations", 0, "bbox", [1, 2, "x", 4]), r"annotation 0: bbox: found 'x'; expected a finite number"),
        (_set("annotations", 0, "bbox", [1, 2, float("nan"), 4]), r"annotation 0: bbox: found nan; expected a finite"),
        (_set("annotations", 0, "bbox", [1, 2, True, 4]), r"annotation 0: bbox: found True; expected a finite"),
        (_set("annotations", 0, "bbox", [1, 10**400, 3, 4]), r"annotation 0: bbox: found 1000+\.\.\.0+; expected a"),
        (
            _set("annotations", 0, "bbox", [42, 2, 20, 4]),
            r"annotation 0: bbox: found box .*; expected it inside .*40x30",
        ),
        (_set("annotations", 0, "bbox", [40.5, 2, 20, 4]), r"annotation 0: bbox: found box .*; expected it inside"),
        (_set("annotations", 0, "bbox", [-9, 2, 9, 4]), r"annotation 0: bbox: found box .*; expected it inside"),
        (_set("annotations", 0, "bbox", [30, 2, -5, 4]), r"annotation 0: bbox: found box .*; expected finite"),
        (_set("annotations", 0, "iscrowd", 2), r"annotation 0: iscrowd: found 2; expected 0 or 1"),
        (_set("annotations", 0, "area", "big"), r"annotation 0: area: found 'big'; expected a finite number"),
        (_set("annotations", 0, "area", -1), r"annotation 0: area: found -1; expected a number of pixels"),
        (_set("annotations", 0, "image_id", 10.5), r"annotation 0: image_id: found 10\.5; expected an integer"),
        (_set("annotations", 0, "image_id", "a"), r"annotation 0: image_id: found 'a'; expected an integer"),
        (_set("annotations", 0, "image_id", True), r"annotation 0: image_id: found True; expected an integer"),
        (_set("images", 0, "id", 10**30), r"images: id: found 1000.*; expected an integer"),
        (_set("images", 0, "id", 11), r"json: images: id: found 11 more than once; expected every image once"),
        (_set("images", 0, "file_name", "b.jpg"), r"json: images: file_name: found b\.jpg more than once"),
        (_set("categories", 0, "id", 17), r"json: categories: id: found 17 more than once; expected every category"),
        (_set("categories", 0, "name", "cat"), r"json: categories: name: found cat more than once; expected one"),
        (
            _set("images", 0, "width", -1),
            r"image 10: width, height: found a size of -1x30 pixels; expected at least 1x1",
        ),
        (_set("images", 0, "width", 10**9), r"image 10: width, height: found a size of 1000000000x30 pixels"),
        (_set("images", 0, "file_name", "x.jpg"), r"train2017/x\.jpg: found no such file; expected an image of inst"),
        (_set("categories", 0, "name", 3), r"categories: name: found 3; expected a text"),
        (lambda c: c.pop("images"), r"images: found no such list"),
        (lambda c: c.update(images=[], annotations=[]), r"images: found an empty list"),
        (lambda c: c.update(annotations=[]), r"found no training image with a box"),
        (lambda c: c["categories"][0].update(name="wolf"), r"categories: found other ids or names"),
        (lambda c: c.update(annotations=[7]), r"annotation without id: image_id: found None; expected an integer"),
    ],
)
def test_defects(
    coco: Path, common: dict[str, Any], edit_json: Edit, change: Callable[[Any], Any], message: str
) -> None:
    edit_json(coco / "annotations" / "instances_train2017.json", change)
    with pytest.raises(InputError, match=message):
        CocoDetection(root=coco, **common).setup()


def test_missing_and_broken_files(coco: Path, common: dict[str, Any]) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match=r"instances_val2017\.json: found a damaged json"):
        CocoDetection(root=coco, **common).setup()
    path.unlink()
    with pytest.raises(InputError, match=r"instances_val2017\.json: found no such file"):
        CocoDetection(root=coco, **common).setup()
    with pytest.raises(InputError, match=r"none: found no such folder"):
        CocoDetection(root=coco / "none", **common).setup()


def test_empty_boxes_are_dropped_with_one_warning(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    edit_json(coco / "annotations" / "instances_train2017.json", _set("annotations", 0, "bbox", [3, 4, 0, 5]))
    with pytest.warns(UserWarning, match=r"instances_train2017\.json: boxes without .*, dropped: 1 "):
        assert len(CocoDetection(root=coco, **common).splits[0]) == 1


def test_all_classes_masks(coco: Path, common: dict[str, Any]) -> None:
    data = CocoSegmentation(root=coco, classes="all", min_area=0, eval_size=[30, 40], **common)
    data.setup()
    assert data.classes == ("background", "cat", "dog")
    ((_, masks),) = list(data.val_dataloader())
    expected = torch.zeros(30, 40, dtype=torch.int64)
    expected[3:11, 2:12] = 1
    expected[:, :4] = 2
    expected[3:11, 2:4] = 255  # claimed by both
    assert torch.equal(masks[0], expected)


def test_compressed_rle_and_polygons_agree(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    region = np.zeros((30, 40), dtype=np.uint8, order="F")
    region[:, :4] = 1
    counts = coco_mask.encode(region)["counts"].decode()
    data = {"root": coco, "classes": "all", "min_area": 0, **common}
    (before,) = [masks for _, masks in CocoSegmentation(**data).val_dataloader()]
    change = _set("annotations", 1, "segmentation", {"size": [30, 40], "counts": counts})
    edit_json(coco / "annotations" / "instances_val2017.json", change)
    (after,) = [masks for _, masks in CocoSegmentation(**data).val_dataloader()]
    assert torch.equal(before, after)


def test_voc_subset_maps_names(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    with pytest.raises(InputError, match=r"categories: found 2 of VOC's 20 classes"):
        CocoSegmentation(root=coco, **common).setup()
    coco_names = {"aeroplane": "airplane", "sofa": "couch", "tvmonitor": "tv", "pottedplant": "potted plant"}
    coco_names |= {"diningtable": "dining table", "motorbike": "motorcycle"}
    names = [coco_names.get(name, name) for name in VOC_CLASSES if name not in ("cat", "dog")] + ["zebra"]

    def extend(content: Any) -> None:
        content["categories"] += [{"id": 30 + i, "name": name} for i, name in enumerate(names)]
        content["annotations"][0]["category_id"] = 30 + names.index("couch")
        content["annotations"][1]["category_id"] = 30 + names.index("zebra")

    for split in ("train", "val"):
        edit_json(coco / "annotations" / f"instances_{split}2017.json", extend)
    data = CocoSegmentation(root=coco, min_area=60, eval_size=[30, 40], **common)
    assert data.classes == ("background", *VOC_CLASSES)
    ((_, masks),) = list(data.val_dataloader())
    assert masks.unique().tolist() == [0, data.classes.index("sofa")]
    assert len(CocoSegmentation(root=coco, min_area=80, **common).splits[0]) == 1  # a's sofa is no more than that


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [[0, 0, 5, 5, 5, float("nan")]],
        [[0, 0, 5, 5, 5, 10**8]],
        [[0, 0, 5, 5, 5, 10**400]],
        [["0", 0, 5, 5, 5, 5]],
        [0, 0, 5, 5, 5, 5],
        "text",
        {"counts": 7},
        {"size": [9, 9], "counts": [0, 81]},
        {"size": [30, 40], "counts": [0, 81]},
        {"size": [30, 40], "counts": [0, -1, 1201]},
        {"size": [30, 40], "counts": "no"},
    ],
)
def test_bad_segmentation_is_one_message(
    coco: Path, common: dict[str, Any], edit_json: Edit, segmentation: Any
) -> None:
    edit_json(coco / "annotations" / "instances_val2017.json", _set("annotations", 0, "segmentation", segmentation))
    with pytest.raises(InputError, match=r"val2017\.json: annotation 0: segmentation: found"):
        CocoSegmentation(root=coco, classes="all", min_area=0, **common).setup()


def test_ids_and_numbers_as_text_or_fractions_are_read(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    """As pandas and spreadsheets write them."""
    plain = CocoDetection(root=coco, **common).fingerprint()

    def change(content: Any) -> None:
        for image in content["images"]:
            image.update(id=str(image["id"]), width=float(image["width"]), height=str(image["height"]))
        for item in content["annotations"]:
            item.update(image_id=float(item["image_id"]), category_id=str(item["category_id"]), area=str(item["area"]))
            item.update(bbox=[str(v) for v in item["bbox"]], iscrowd=bool(item["iscrowd"]))
        content["categories"][0]["id"] = "18"

    edit_json(coco / "annotations" / "instances_train2017.json", change)
    data = CocoDetection(root=coco, **common)
    with pytest.warns(
        DataWarning, match=r"train2017\.json: ids and sizes written as text .*: 15 \(first: categories\)"
    ):
        data.setup()
    assert data.fingerprint() == plain


def test_absent_sizes_come_from_the_images(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    plain = CocoDetection(root=coco, **common).fingerprint()
    path = coco / "annotations" / "instances_train2017.json"
    edit_json(path, lambda c: (c["images"][0].pop("width"), c["images"][1].update(height=0)))
    data = CocoDetection(root=coco, **common)
    with pytest.warns(DataWarning, match=r"widths and heights .*, taken from the images: 2 \(first: image 10\)"):
        data.setup()
    assert data.fingerprint() == plain


def test_absent_areas_are_computed(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    def change(content: Any) -> None:
        for item in content["annotations"]:
            item.update(area=None)
        content["annotations"][1].pop("area")

    edit_json(coco / "annotations" / "instances_val2017.json", change)
    edit_json(coco / "annotations" / "instances_train2017.json", change)
    edit_json(coco / "annotations" / "instances_train2017.json", _set("annotations", 2, "segmentation", []))
    data = CocoDetection(root=coco, **common)
    with pytest.warns(DataWarning, match=r"val2017\.json: areas that are absent, computed: 2 \(first: annotation 0\)"):
        data.setup()
    assert data.splits[1].records[0].area.tolist() == [80.0, 120.0]
    assert data.splits[0].records[1].area.tolist() == [80.0]  # its box, 10 x 8: there is nothing else
    segmentation = CocoSegmentation(root=coco, classes="all", min_area=100, **common)
    with pytest.warns(DataWarning, match=r"annotations without pixels, dropped: 1 \(first: annotation 2\)"):
        assert len(segmentation.splits[0]) == 2


@pytest.mark.parametrize("empty", [None, [], [[]], [[1, 2, 3, 4]], {"size": [30, 40], "counts": [1200]}])
def test_annotations_without_pixels_are_dropped(
    coco: Path, common: dict[str, Any], edit_json: Edit, empty: Any
) -> None:
    edit_json(coco / "annotations" / "instances_val2017.json", _set("annotations", 0, "segmentation", empty))
    data = CocoSegmentation(root=coco, classes="all", min_area=0, **common)
    with pytest.warns(DataWarning, match=r"val2017\.json: .*annotations without pixels, dropped: 1 ") as said:
        data.setup()
    assert ("fewer than three points, dropped: 1" in str(said[0].message)) == (empty == [[1, 2, 3, 4]])
    ((_, masks),) = list(data.val_dataloader())
    assert masks.unique().tolist() == [0, 2, 255]
    detection = CocoDetection(root=coco, **common)  # the box is there all the same
    assert detection.splits[1].records[0].labels.tolist() == [1, 2]


def test_a_polygon_of_two_points_beside_a_whole_one(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    expected = [m for _, m in CocoSegmentation(root=coco, classes="all", min_area=0, **common).val_dataloader()]
    edit_json(path, lambda c: c["annotations"][0]["segmentation"].insert(0, [20, 20, 30, 29]))
    data = CocoSegmentation(root=coco, classes="all", min_area=0, **common)
    with pytest.warns(DataWarning, match="polygons of fewer than three points, dropped: 1 "):
        data.setup()
    assert torch.equal(next(iter(data.val_dataloader()))[1], expected[0])


def test_boxes_that_reach_out_are_clipped_and_counted(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    path = coco / "annotations" / "instances_train2017.json"
    edit_json(path, _set("annotations", 0, "bbox", [-4, 25, 10, 12]))
    data = CocoDetection(root=coco, **common)
    with pytest.warns(
        DataWarning, match=r"boxes that reach out of their images, clipped: 1 \(first: annotation 0: bbox"
    ):
        data.setup()
    assert data.splits[0].records[0].boxes.tolist() == [[0, 25, 6, 30]]
    assert data.splits[0].records[0].area.tolist() == [30.0]  # the 80 that the file says cannot be inside


def test_many_clipped_boxes_are_refused(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    path = coco / "annotations" / "instances_train2017.json"

    def boxes(clipped: int, total: int) -> Callable[[Any], Any]:
        inside, outside = ({"image_id": 10, "category_id": 17, "bbox": [x, 2, 10, 8], "area": 80} for x in (3, -3))
        return lambda content: content.update(annotations=[outside] * clipped + [inside] * (total - clipped))

    for clipped, total, refused in ((5, 20, False), (6, 20, True), (6, 600, False), (7, 600, True)):
        edit_json(path, boxes(clipped, total))
        data = CocoDetection(root=coco, **(common | {"batch_size": 1}))
        if refused:
            with pytest.raises(InputError, match=rf"{path}: found boxes that reach out .*: {clipped} of {total} "):
                data.setup()
        else:
            with pytest.warns(DataWarning, match=f"clipped: {clipped} "):
                data.setup()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_json(coco: Path, common: dict[str, Any], encoding: str) -> None:
    plain = CocoDetection(root=coco, **common).fingerprint()
    path = coco / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text(), encoding=encoding)
    assert CocoDetection(root=coco, **common).fingerprint() == plain


@pytest.mark.parametrize("content", [b"\xff\x00{", b"[" * 100_000, b'{"images": 1' + b"0" * 5000 + b"}", b"", b"7"])
def test_hostile_json(coco: Path, common: dict[str, Any], content: bytes) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        CocoDetection(root=coco, **common).setup()
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_fingerprint_follows_annotations(coco: Path, common: dict[str, Any], edit_json: Edit) -> None:
    before = CocoDetection(root=coco, **common).fingerprint()
    path = coco / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    assert CocoDetection(root=coco, **common).fingerprint() == before
    edit_json(path, _set("annotations", 0, "category_id", 18))
    assert CocoDetection(root=coco, **common).fingerprint() != before


def test_coco128(shared_data: Path, common: dict[str, Any]) -> None:
    detection = CocoDetection(root=shared_data / "coco128", **common)
    detection.setup()
    assert len(detection.classes) == 80 and len(detection.splits[0]) == 98 and len(detection.splits[1]) == 100
    assert sum(len(record.labels) for record in detection.splits[1].records) == 712
    for images, _ in detection.train_dataloader():
        assert images.isfinite().all()
    for classes, count in (("voc", 21), ("all", 81)):
        data = CocoSegmentation(root=shared_data / "coco128", classes=classes, **(common | {"image_size": 320}))
        data.setup()
        images, masks = next(iter(data.val_dataloader()))
        assert len(data.classes) == count and masks.shape == (2, 320, 320) and images.shape == (2, 3, 320, 320)
        assert masks[masks != 255].max() < count
