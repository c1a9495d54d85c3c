"""Every configuration of this room builds, and the parts of a composition belong together."""

import pytest
import torch
from composing import composed
from omegaconf import OmegaConf

from oaq_repro.configuration import build, config_folder
from oaq_repro.quant.trace import fold
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule

SHAPES = {"small": (3, 96, 96), "cifar": (3, 32, 32), "scenes": (3, 96, 96)}
DIGITS = ("mobilenetv1_small", "resnet18_small")
ALIASES = ("scenes_detection", "scenes_segmentation", "timm")  # timm: no network of its own


def names(group):
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


@pytest.mark.parametrize("name", [n for n in names("model") if n not in ALIASES])
def test_every_model_builds_and_folds(name):
    if "deeplab" in name:
        pytest.importorskip("mmengine", reason="the extra 'segmentation' is not installed")
    shape = (1, 16, 16) if name in DIGITS else SHAPES.get(name.split("_")[-1], (3, 128, 128))
    config = OmegaConf.load(config_folder() / "model" / f"{name}.yaml")
    network = build(config, "model", num_classes=4, input_shape=shape)
    assert (network.codec is not None) == name.startswith("ssd")
    with torch.no_grad():
        fold(network.dense, shape)(torch.zeros(1, *shape))


@pytest.mark.parametrize("name", names("schedule"))
def test_every_schedule_has_both_stages(name):
    config = OmegaConf.load(config_folder() / "schedule" / f"{name}.yaml")
    for stage in ("float", "finetune"):
        assert isinstance(build(config[stage], f"schedule.{stage}"), Schedule)


@pytest.mark.parametrize("name", names("task"))
def test_every_task_builds(name):
    config = composed(f"task={name}")
    network = build(config.model, "model", num_classes=10, input_shape=(3, 96, 96))
    fields = {k: v for k, v in config.task.items() if k != "name"}
    task = build(fields, "task")(network=network, schedule=None, classes=tuple("0123456789"))
    assert isinstance(task, Task)
    assert config.task.name == name


@pytest.mark.parametrize(
    ("overrides", "data", "model", "schedule"),
    [
        ([], "digits.Digits", None, "digits"),
        (["model=mobilenetv1_small"], "digits.Digits", "mobilenetv1_small", "digits"),
        (["data=cifar10"], "cifar10.Cifar10", "mobilenetv1_cifar", "cifar10"),
        (["data=imagenet", "model=resnet50"], "imagenet.ImageNet", "resnet50", "imagenet"),
        (["task=detection"], "scene_cache.build_scenes", "ssdlite_mobilenetv2_small", "scenes_detection"),
        (
            ["task=detection", "data=scenes"],
            "scene_cache.build_scenes",
            "ssdlite_mobilenetv2_small",
            "scenes_detection",
        ),
        (["task=segmentation"], "scene_cache.build_scenes", "deeplabv3_mobilenetv2_small", "scenes_segmentation"),
        (["task=detection", "data=voc_detection"], "voc.VocDetection", "ssdlite_mobilenetv2", "voc_detection"),
        (
            ["task=detection", "data=voc_detection", "model=ssd_mobilenetv1", "schedule=coco_detection"],
            "voc.VocDetection",
            "ssd_mobilenetv1",
            "coco_detection",
        ),
        (["task=detection", "data=coco_detection"], "coco.CocoDetection", "ssdlite_mobilenetv2", "coco_detection"),
        (["task=segmentation", "data=camvid"], "camvid.CamVid", "deeplabv3_mobilenetv2", "camvid"),
    ],
)
def test_data_bring_their_network_and_schedule_unless_told_otherwise(overrides, data, model, schedule):
    config = composed(*overrides)
    assert config.data._target_ == f"oaq_repro.data.{data}"
    if model:
        assert config.model == OmegaConf.load(config_folder() / "model" / f"{model}.yaml")
    assert config.schedule == OmegaConf.load(config_folder() / "schedule" / f"{schedule}.yaml")
