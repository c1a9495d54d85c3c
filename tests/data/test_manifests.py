"""The published benchmarks: their counts against what is known of them elsewhere, their files against torchvision."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as tv
from layouts import COCO_CATEGORIES, WNIDS, flatten_val, write_coco, write_imagenet, write_voc_devkit
from pycocotools.coco import COCO
from scipy.io import savemat
from torchvision.datasets import imagenet as tv_imagenet
from torchvision.datasets import voc as tv_voc

from oaq_repro.data.coco import CocoDetection
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.data.inspection import inspect_data, manifests
from oaq_repro.data.voc import VOC_CLASSES, VocDetection

MANIFESTS = manifests()
PUBLISHED = {
    "imagenet": {"train: classes": 1000, "train: images": 1_281_167, "val: images": 50_000},
    "cifar10": {"train: images": 50_000, "test: images": 10_000},
    "cifar100": {"train: images": 100 * 500, "test: images": 100 * 100},
    "tiny_imagenet": {"train: classes": 200, "train: images": 200 * 500, "val: images": 200 * 50},
    "jets": {"jets": 664_000 + 166_000},  # the shapes that the hls4ml tutorial prints
    "coco": {"train2017: images": 118_287, "val2017: images": 5_000, "categories": 80},
    "camvid": {"train: images": 367, "val: images": 101},
}
VOC = {  # train, val, trainval, test
    ("VOC2007", "Main"): (2_501, 2_510, 5_011, 4_952),
    ("VOC2007", "Segmentation"): (209, 213, 422, 210),
    ("VOC2012", "Main"): (5_717, 5_823, 11_540, None),
    ("VOC2012", "Segmentation"): (1_464, 1_449, 2_913, None),
}


def test_counts_are_the_published_ones() -> None:
    """Written down a second time from the papers and the devkits; sums that are published elsewhere hold, too."""
    voc = dict(MANIFESTS["voc"]["counts"])
    assert {name: manifest["counts"] for name, manifest in MANIFESTS.items() if name != "voc"} == PUBLISHED
    assert voc.pop("VOC2012/ImageSets/Segmentation/trainaug.txt: images") == 10_582
    expected = {
        f"{year}/ImageSets/{kind}/{split}.txt: images": count
        for (year, kind), counts in VOC.items()
        for split, count in zip(("train", "val", "trainval", "test"), counts, strict=True)
        if count is not None
    }
    assert voc == expected
    assert all(train + val == both for train, val, both, _ in VOC.values())
    assert 5_011 + 4_952 == 9_963  # all images of VOC2007, as its devkit says
    assert 5_011 + 11_540 == 16_551  # the usual training set, 07+12
    assert 118_287 + 5_000 == 82_783 + 40_504  # COCO 2017 is 2014, split anew


def test_every_manifest_says_its_source_and_how_to_get_the_data() -> None:
    for manifest in MANIFESTS.values():
        assert set(manifest) == {"source", "counts", "get"} and manifest["source"] and manifest["get"]


def test_archives_are_those_of_torchvision() -> None:
    archives = {
        "imagenet": [name for name, _ in tv_imagenet.ARCHIVE_META.values()],
        "voc": [tv_voc.DATASET_YEAR_DICT[year]["filename"] for year in ("2007", "2007-test", "2012")],
        "cifar10": [tv.CIFAR10.filename, tv.CIFAR10.base_folder],
        "cifar100": [tv.CIFAR100.filename, tv.CIFAR100.base_folder],
    }
    for name, files in archives.items():
        assert all(file in MANIFESTS[name]["get"] for file in files), name


@pytest.mark.parametrize(("year", "split"), [("2007", "trainval"), ("2007", "test"), ("2012", "trainval")])
def test_voc_is_read_from_where_torchvision_reads_it(
    tmp_path: Path, common: dict[str, Any], year: str, split: str
) -> None:
    root = write_voc_devkit(tmp_path)
    ours = VocDetection(root=root, year=year[2:], **common)
    theirs = tv.VOCDetection(str(root), year=year, image_set=split)
    records = ours.splits[split == "test"].records
    assert [str(record.path) for record in records] == theirs.images
    assert ours.classes == VOC_CLASSES
    for record, (_, target) in zip(records, theirs, strict=True):
        objects = target["annotation"]["object"]
        if split == "trainval":  # difficult ones are none to train on
            objects = [item for item in objects if item["difficult"] == "0"]
        assert [ours.classes[label - 1] for label in record.labels] == [item["name"] for item in objects]
        for box, item in zip(record.boxes + [1, 1, 0, 0], objects, strict=True):
            assert box.tolist() == [float(item["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]


def test_coco_is_read_as_pycocotools_reads_it(tmp_path: Path, common: dict[str, Any]) -> None:
    root = write_coco(tmp_path)
    data = CocoDetection(root=root, **common)
    theirs = COCO(root / "annotations" / "instances_val2017.json")
    assert [record.image_id for record in data.splits[1].records] == theirs.getImgIds()
    assert data.classes == tuple(COCO_CATEGORIES.values()) and len(COCO_CATEGORIES) == 80
    for record in data.splits[1].records:
        items = theirs.loadAnns(theirs.getAnnIds(record.image_id))
        assert [list(COCO_CATEGORIES)[label - 1] for label in record.labels] == [i["category_id"] for i in items]
        assert record.ignored.tolist() == [item["iscrowd"] for item in items]


def devkit_archive(root: Path) -> None:
    """ILSVRC2012_devkit_t12.tar.gz, whose numbers are not in the order of the WordNet ids."""
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    numbers = {wnid: number for number, wnid in enumerate(reversed(WNIDS), start=1)}
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = [(number, wnid, f"words of {wnid}", "", 0) for wnid, number in numbers.items()]
    synsets.append((1001, "n99999999", "entity", "", 3))
    savemat(data / "meta.mat", {"synsets": np.array(synsets, dtype=kinds)[:, None]})
    labels = (line.split() for line in (root / "val.txt").read_text().splitlines())
    text = "".join(f"{numbers[WNIDS[int(label)]]}\n" for _, label in labels)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")


def test_imagenet_is_read_as_torchvision_reads_it(
    tmp_path: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From class folders, which torchvision makes of the archives, and from val as distributed with the devkit."""
    folders, flat = write_imagenet(tmp_path / "folders"), flatten_val(write_imagenet(tmp_path / "flat"))
    devkit_archive(flat)
    (flat / "val.txt").unlink()
    (folders / "ILSVRC2012_devkit_t12.tar.gz").symlink_to(flat / "ILSVRC2012_devkit_t12.tar.gz")
    monkeypatch.setitem(tv_imagenet.ARCHIVE_META, "devkit", ("ILSVRC2012_devkit_t12.tar.gz", None))
    for position, split in enumerate(("train", "val")):
        theirs = tv.ImageNet(str(folders), split)
        expected = {Path(path).name: label for path, label in theirs.samples}
        for root in (folders, flat):
            ours = ImageNet(root=root, **common)
            assert list(ours.classes) == theirs.wnids == list(WNIDS)
            assert {Path(path).name: label for path, label in ours.splits[position].files} == expected


@pytest.mark.parametrize(
    ("write", "kind", "subset"),
    [
        (write_imagenet, ImageNet, "val: images: this is a subset: 12 of 50,000"),
        (write_voc_devkit, VocDetection, "VOC2012/ImageSets/Main/trainval.txt: images: this is a subset: 4 of 11,540"),
        (write_coco, CocoDetection, "val2017: images: this is a subset: 4 of 5,000"),
    ],
)
def test_a_subset_is_said_and_used(tmp_path: Path, common: dict[str, Any], write: Any, kind: Any, subset: str) -> None:
    report = inspect_data(kind(root=write(tmp_path), **common))
    assert report.complete
    assert f"{tmp_path}: {subset}" in [finding.text for finding in report.findings if finding.state == "differs"]
