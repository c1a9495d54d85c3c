"""Every configuration of this room builds, and the parts of a composition belong together."""

import pytest
import torch
from composing import built, choice, composed, settings_of
from omegaconf import OmegaConf

from oaq_repro.quant.conversion.trace import fold
from oaq_repro.settings.composing import config_folder
from oaq_repro.settings.schema import build, build_part, check
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedules

SHAPES = {"small": (3, 96, 96), "cifar": (3, 32, 32), "scenes": (3, 96, 96)}
DIGITS = ("mobilenetv1_small", "resnet18_small", "mlp_small", "lenet300", "cnn_small")


def names(group):
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


@pytest.mark.parametrize("name", names("model"))
def test_every_model_builds_and_folds(name):
    if "deeplab" in name:
        pytest.importorskip("mmengine", reason="the extra 'segmentation' is not installed")
    shape = (1, 16, 16) if name in DIGITS else SHAPES.get(name.split("_")[-1], (3, 128, 128))
    network = built("model", *choice("model", name), num_classes=4, input_shape=shape)
    assert (network.codec is not None) == name.startswith("ssd")
    with torch.no_grad():
        fold(network.dense, shape)(torch.zeros(1, *shape))


@pytest.mark.parametrize("name", names("schedule"))
def test_every_schedule_has_both_stages(name):
    assert isinstance(build_part(Schedules, settings_of(f"schedule={name}")["schedule"], "schedule"), Schedules)


@pytest.mark.parametrize("name", names("task"))
def test_every_task_builds(name):
    settings = settings_of(f"task={name}")
    network = build("model", settings["model"], num_classes=10, input_shape=(3, 96, 96))
    task = build("task", settings["task"], network=network, schedule=None, classes=tuple("0123456789"))
    assert isinstance(task, Task)
    assert settings["task"]["kind"] == name


@pytest.mark.parametrize(
    ("overrides", "data", "model", "schedule"),
    [
        ([], "digits", None, "digits"),
        (["model=mobilenetv1_small"], "digits", "mobilenetv1_small", "digits"),
        (["data=cifar10"], "cifar10", "mobilenetv1_cifar", "cifar10"),
        (["data=imagenet", "model=resnet50"], "imagenet", "resnet50", "imagenet"),
        (["task=detection"], "scenes_detection", "ssdlite_mobilenetv2_small", "scenes_detection"),
        (
            ["task=detection", "data=scenes_detection"],
            "scenes_detection",
            "ssdlite_mobilenetv2_small",
            "scenes_detection",
        ),
        (["task=segmentation"], "scenes_segmentation", "deeplabv3_mobilenetv2_small", "scenes_segmentation"),
        (["data=voc_detection"], "voc_detection", "ssdlite_mobilenetv2", "voc_detection"),
        (
            ["task=detection", "data=voc_detection", "model=ssd_mobilenetv1", "schedule=coco_detection"],
            "voc_detection",
            "ssd_mobilenetv1",
            "coco_detection",
        ),
        (["data=coco_detection"], "coco_detection", "ssdlite_mobilenetv2", "coco_detection"),
        (["data=camvid"], "camvid", "deeplabv3_mobilenetv2", "camvid"),
    ],
)
def test_data_bring_their_network_and_schedule_unless_told_otherwise(overrides, data, model, schedule):
    config = composed(*overrides)
    check(settings_of(*overrides))
    assert config.data.kind == data
    if model:
        assert config.model == OmegaConf.load(config_folder() / "model" / f"{model}.yaml")
    assert config.schedule == composed(*overrides, f"schedule={schedule}").schedule
    said = OmegaConf.load(config_folder() / "schedule" / f"{schedule}.yaml")
    assert all(config.schedule.finetune[key] == value for key, value in said.finetune.items())
