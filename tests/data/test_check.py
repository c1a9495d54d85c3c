import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from oaq_repro.data.base import DataModule
from oaq_repro.data.camvid import CamVid
from oaq_repro.data.check import check
from oaq_repro.data.cifar10 import Cifar10
from oaq_repro.data.coco import CocoDetection, CocoSegmentation
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.data.voc import VocDetection, VocSegmentation

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = sorted(path.stem for path in (REPOSITORY / "conf" / "data").glob("*.yaml"))
TASKS = ("detection", "segmentation")
TASK = {name: task for name in DATA for task in TASKS if name.endswith(f"_{task}")} | {
    "camvid": "segmentation",
    "scenes": "detection",
}


def texts(report: Any, state: str) -> str:
    return "\n".join(finding.text for finding in report.findings if finding.state == state)


@pytest.mark.parametrize("kind", [VocDetection, VocSegmentation])
def test_folder_of_voc_layout(voc: Path, common: dict[str, Any], kind: type[DataModule]) -> None:
    report = check(kind(root=voc, **common))
    assert report.complete and "2 samples to train on, 1 held out" in texts(report, "ok")
    (voc / "JPEGImages" / "a.jpg").unlink()
    report = check(kind(root=voc, **common))
    assert not report.complete and "JPEGImages: 1 of 2 files are missing: a" in texts(report, "missing")
    assert "VOCtrainval_06-Nov-2007.tar" in report.get


def test_voc_benchmark_counts(voc: Path, common: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "benchmark" / "VOCdevkit"
    folder.mkdir(parents=True)
    voc.rename(folder / "VOC2007")
    main = folder / "VOC2007" / "ImageSets" / "Main"
    (main / "train.txt").rename(main / "trainval.txt")
    report = check(VocDetection(root=tmp_path / "benchmark", year="07", **common))
    assert not report.complete
    assert "trainval.txt: images: 2; the benchmark has 5011" in texts(report, "missing")
    assert "test.txt: found no such file" in texts(report, "missing")
    assert not check(VocDetection(root=tmp_path / "none", **common)).complete


@pytest.mark.parametrize("kind", [CocoDetection, CocoSegmentation])
def test_folder_of_coco_layout(coco: Path, common: dict[str, Any], kind: type[DataModule]) -> None:
    extra = {"classes": "all", "min_area": 0} if kind is CocoSegmentation else {}
    report = check(kind(root=coco, **common, **extra))
    assert report.complete and "images: 2; the benchmark has 118287" in texts(report, "differs")
    (coco / "val2017" / "c.jpg").unlink()
    report = check(kind(root=coco, **common, **extra))
    assert "val2017: 1 of 1 files are missing: c.jpg" in texts(report, "missing")
    (coco / "annotations" / "instances_train2017.json").unlink()
    report = check(kind(root=coco, **common, **extra))
    assert "instances_train2017.json: found no such file" in texts(report, "missing") and "c.jpg" in texts(
        report, "missing"
    )


def test_defect_of_an_annotation_is_found(voc: Path, common: dict[str, Any]) -> None:
    xml = voc / "Annotations" / "a.xml"
    xml.write_text(xml.read_text().replace("<xmax>20<", "<xmax>400<"))
    report = check(VocDetection(root=voc, **common))
    assert not report.complete and "expected it inside the image" in texts(report, "broken")


def test_imagenet(tmp_path: Path, class_folders: Callable[..., Path], common: dict[str, Any]) -> None:
    class_folders(tmp_path / "train", 2, 8)
    report = check(ImageNet(root=tmp_path, **common))
    assert "classes: 2; the benchmark has 1000" in texts(report, "missing")
    assert "val: found no such folder" in texts(report, "missing") and "image-net.org" in report.get


def test_cifar10(tmp_path: Path, class_folders: Callable[..., Path], common: dict[str, Any]) -> None:
    assert not check(Cifar10(root=tmp_path, download=True, **common)).complete  # checking downloads nothing
    class_folders(tmp_path / "train", 10, 8)
    report = check(Cifar10(root=tmp_path, **common))
    assert "training images: 20; the benchmark has 50000" in texts(report, "missing")
    assert "2 training images are held out instead" in texts(report, "differs")
    class_folders(tmp_path / "test", 1, 8)
    assert "test images: 2; the benchmark has 10000" in texts(check(Cifar10(root=tmp_path, **common)), "missing")


def test_camvid(camvid: Path, common: dict[str, Any]) -> None:
    (camvid / "trainannot" / "b.png").unlink()
    report = check(CamVid(root=camvid, **common))
    assert "trainannot: 1 of 2 files are missing: b.png" in texts(report, "missing")
    assert "train: images: 2; the benchmark has 367" in texts(report, "missing")


@pytest.mark.filterwarnings("ignore:.*dropped")
def test_real_data_are_complete(shared_data: Path, common: dict[str, Any]) -> None:
    for data in (
        VocDetection(root=shared_data / "bccd", **common),
        CocoDetection(root=shared_data / "coco128", **common),
        CocoSegmentation(root=shared_data / "coco128", **common),
        CamVid(root=shared_data / "camvid", **common),
        Cifar10(root=shared_data / "cifar10", **common),
    ):
        report = check(data)
        assert report.complete, report


@pytest.mark.parametrize("name", DATA)
def test_configs_build_their_data_module(name: str) -> None:
    """Composes the whole config (so that model and schedule exist, too) and makes the module; nothing is read."""
    task = TASK.get(name, "classification")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", [f"data={name}", f"task={task}"])
    data = instantiate(config.data, _convert_="all")
    assert isinstance(data, DataModule) and data.task == task and len(data.input_shape) == 3


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["task=detection"], "oaq_repro.models.ssd.build"),
        (["task=segmentation"], "oaq_repro.models.mmseg_deeplab.build"),
        (["task=detection", "data=voc_detection", "model=ssd_mobilenetv1"], "oaq_repro.models.ssd.build"),
        (["data=cifar10", "model=resnet18_cifar"], "oaq_repro.models.classification.build"),
    ],
)
def test_choices_compose_and_the_command_line_wins(overrides: list[str], model: str) -> None:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    assert config.model._target_ == model
    chosen = config.hydra.runtime.choices
    for override in overrides:
        group, value = override.split("=")
        assert chosen[group] == value
    if overrides == ["task=detection"]:
        assert chosen["data"] == "scenes" and chosen["model"] == "scenes_detection"


def test_script(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(REPOSITORY / "scripts" / "check_data.py"))["main"]
    assert main(["task=detection", "data=voc_detection", f"data.root={voc}"]) == 0
    assert "2 samples to train on, 1 held out" in capsys.readouterr().out
    (voc / "Annotations" / "c.xml").unlink()
    assert main(["data=voc_detection", f"data.root={voc}"]) == 1
    output = capsys.readouterr().out
    assert "missing" in output and "c.xml" in output and "How to get it:" in output
    assert main(["data=voc_detection", "data.yaer=07"]) == 1
    assert "yaer" in capsys.readouterr().err
    assert main(["data=voc_detection", "data.year=1999"]) == 1
    assert capsys.readouterr().err.strip() == "error: data.year: found 1999; expected one of 07, 12, 07+12"
