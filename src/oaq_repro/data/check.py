"""Is a data set complete? Layout and counts against manifests.yaml, without decoding images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from oaq_repro.data.base import DataModule
from oaq_repro.data.camvid import CamVid
from oaq_repro.data.checks import index_by_stem
from oaq_repro.data.cifar10 import Cifar10
from oaq_repro.data.classification import read_class_folders
from oaq_repro.data.coco import CocoDetection, CocoSegmentation, load_instances
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.data.scene_cache import Scenes
from oaq_repro.data.voc import IMAGE_SUFFIXES, VocDetection, VocSegmentation, VocSplit
from oaq_repro.errors import InputError

SHOWN = 5
"""How many missing files a finding names."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    missing: a file or folder is not there; broken: what is there cannot be read or contradicts itself;
    differs: complete in itself, but not the published benchmark.
    """

    state: Literal["ok", "missing", "broken", "differs"]
    text: str


@dataclass(frozen=True)
class Report:
    """All findings on one data set, and how to get what is missing."""

    findings: tuple[Finding, ...]
    get: str

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or broken."""
        return not any(finding.state in ("missing", "broken") for finding in self.findings)


def check(data: DataModule) -> Report:
    """Compare the files of a data module with its lists, and its counts with the official ones.

    Where nothing is missing, all annotations are read as for training, and their first defect is a finding.
    Never raises InputError: that is what it reports.
    """
    findings: list[Finding] = []
    get = ""
    for kinds, name, inspect in _INSPECTORS:
        if isinstance(data, kinds) and not isinstance(data, Scenes):
            manifest = yaml.safe_load(files("oaq_repro.data").joinpath("manifests.yaml").read_text("utf-8"))[name]
            get = manifest["get"]
            findings += _guarded(inspect(data, manifest))
    if all(finding.state != "missing" for finding in findings):
        try:
            data.prepare_data()
            train, val = data.splits
        except InputError as error:
            findings.append(Finding("broken", str(error)))
        else:
            text = f"{len(data.classes)} classes, {len(train)} samples to train on, {len(val)} held out"
            findings.append(Finding("ok", text))
    return Report(tuple(findings), get)


def _guarded(found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; an InputError on the way is one, too."""
    try:
        yield from found
    except InputError as error:
        yield Finding("missing", str(error))


def _count(what: str, found: int, expected: int | None, fewer: Literal["missing", "differs"]) -> Finding:
    if expected is None or found == expected:
        return Finding("ok", f"{what}: {found}")
    return Finding(fewer if found < expected else "differs", f"{what}: {found}; the benchmark has {expected}")


def _present(where: Path, wanted: Iterable[str], present: Iterable[str]) -> Finding:
    wanted = list(wanted)
    absent = sorted(set(wanted) - set(present))
    if not absent:
        return Finding("ok", f"{where}: all {len(wanted)} files")
    named = ", ".join(absent[:SHOWN]) + (", ..." if len(absent) > SHOWN else "")
    return Finding("missing", f"{where}: {len(absent)} of {len(wanted)} files are missing: {named}")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _voc(data: VocDetection | VocSegmentation, manifest: dict[str, Any]) -> Iterator[Finding]:
    train, val = data.sources()
    kind, folder, suffix = ("Main", "Annotations", ".xml")
    if isinstance(data, VocSegmentation):
        kind, folder, suffix = ("Segmentation", data.masks, ".png")
    for split in (*train, *val):
        official = {} if split.folder == data.root else manifest.get(split.folder.name, {}).get(kind, {})
        yield from _guarded(_voc_split(split, kind, folder, suffix, official.get(split.name)))


def _voc_split(split: VocSplit, kind: str, folder: str, suffix: str, expected: int | None) -> Iterator[Finding]:
    ids = split.ids(kind)
    yield _count(f"{split.folder}/ImageSets/{kind}/{split.name}.txt: images", len(ids), expected, "missing")
    images = index_by_stem(split.folder / "JPEGImages", IMAGE_SUFFIXES)
    yield _present(split.folder / "JPEGImages", ids, images)
    yield _present(split.folder / folder, (f"{name}{suffix}" for name in ids), _names(split.folder / folder))


def _coco(data: CocoDetection | CocoSegmentation, manifest: dict[str, Any]) -> Iterator[Finding]:
    assert data.root is not None  # the config requires it
    for split in ("train2017", "val2017"):
        yield from _guarded(_coco_split(data.root, split, manifest))


def _coco_split(root: Path, split: str, manifest: dict[str, Any]) -> Iterator[Finding]:
    path = root / "annotations" / f"instances_{split}.json"
    content = load_instances(path)
    for key in ("images", "annotations"):
        yield _count(f"{path}: {key}", len(content[key]), manifest[split][key], "differs")
    yield _count(f"{path}: categories", len(content["categories"]), manifest["categories"], "differs")
    listed = (str(image.get("file_name")) for image in content["images"] if isinstance(image, dict))
    yield _present(root / split, listed, _names(root / split))


def _class_folders(folder: Path, expected: dict[str, int]) -> Iterator[Finding]:
    names, images = read_class_folders(folder)
    yield _count(f"{folder}: classes", len(names), expected["classes"], "missing")
    yield _count(f"{folder}: images", len(images), expected["images"], "missing")


def _imagenet(data: ImageNet, manifest: dict[str, Any]) -> Iterator[Finding]:
    assert data.root is not None  # the config requires it
    for split in ("train", "val"):
        yield from _guarded(_class_folders(data.root / split, manifest[split]))


def _cifar10(data: Cifar10, manifest: dict[str, Any]) -> Iterator[Finding]:
    train, val = data.read()
    both = len(train) + len(val)
    if data.holds_out:
        yield _count(f"{data.root}: training images", both, manifest["train"]["images"], "missing")
        yield Finding("differs", f"{data.root}: no test split; {len(val)} training images are held out instead")
    else:
        yield _count(f"{data.root}: training images", len(train), manifest["train"]["images"], "missing")
        yield _count(f"{data.root}: test images", len(val), manifest["test"]["images"], "missing")


def _camvid(data: CamVid, manifest: dict[str, Any]) -> Iterator[Finding]:
    assert data.root is not None  # the config requires it
    for split in ("train", "val"):
        images, masks = data.root / split, data.root / f"{split}annot"
        yield from _guarded(_camvid_split(images, masks, manifest[split]))


def _camvid_split(images: Path, masks: Path, expected: int) -> Iterator[Finding]:
    names = index_by_stem(images, IMAGE_SUFFIXES)
    yield _count(f"{images}: images", len(names), expected, "missing")
    yield _present(masks, (f"{name}.png" for name in names), _names(masks))


_INSPECTORS: tuple[tuple[Any, str, Callable[[Any, dict[str, Any]], Iterator[Finding]]], ...] = (
    ((VocDetection, VocSegmentation), "voc", _voc),
    ((CocoDetection, CocoSegmentation), "coco", _coco),
    (ImageNet, "imagenet", _imagenet),
    (Cifar10, "cifar10", _cifar10),
    (CamVid, "camvid", _camvid),
)
