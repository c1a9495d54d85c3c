"""Configurations for tests: the real ones of conf/, composed as the command line composes them."""

import copy
from functools import cache

from hydra import compose, initialize_config_dir

from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.settings import schema
from oaq_repro.settings.composing import config_folder, resolve

TINY = [
    "task=classification", "data.subset=64", "data.val_subset=20", "data.batch_size=16", "schedule.float.epochs=2",
    "schedule.finetune.epochs=2", "schedule.float.warmup_steps=1", "schedule.finetune.warmup_steps=1",
    "schedule.controller_interval=2", "trainer.enable_progress_bar=false", "quantization.calibration_batches=2",
    "threads=1",
]  # fmt: skip
TWO_STEPS = [
    "data.batch_size=4", "data.num_workers=0", "schedule.controller_interval=1", "quantization.calibration_batches=1",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "threads=1", "latency=false",
    *(f"schedule.{stage}.{field}" for stage in ("float", "prepare", "finetune")
      for field in ("steps=2", "epochs=null", "warmup_steps=1")),
]  # fmt: skip
"""A run of the paper on a handful of images: two steps of each training, all stages."""
SMALL_IMAGES = {
    "imagenet": ["data.image_size=32"],
    "voc_detection": ["data.image_size=96"],
    "coco_segmentation": ["data.image_size=65", "data.eval_size=65"],
    **dict.fromkeys(("activitynet", "fcvid", "mini_kinetics"), ["data.image_size=32", "data.frames=2"]),
}
"""By the data that the paper's tables name."""


def choice(group, name):
    """Overrides that choose a file of a group, and what it leaves to the user."""
    return [f"{group}={name}", *(["model.arch=regnetx_002"] if (group, name) == ("model", "timm") else [])]


def composed(*overrides):
    """conf/config.yaml with command line overrides."""
    return copy.deepcopy(_composed(overrides))


@cache  # composing takes a tenth of a second, and many tests want the same
def _composed(overrides):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def tiny(results, *overrides):
    """A run of seconds on 64 digits, as `experiment.run` takes it."""
    return settings_of(*TINY, f"results={results}", *overrides)


def settings_of(*overrides):
    """The same as plain containers."""
    return resolve(composed(*overrides))


def read_of(*overrides):
    """The same, read: all settings of a run in one object."""
    return schema.read(settings_of(*overrides))


def built(section, *overrides, **given):
    """What a section of that configuration describes."""
    return schema.build(section, settings_of(*overrides)[section], **given)


def quantization_of(*overrides):
    """The QuantizationConfig of that configuration."""
    return schema.build_part(QuantizationConfig, settings_of(*overrides)["quantization"], "quantization")


def changed(overrides, *others):
    """Overrides, the later in the place of earlier ones of the same field: twice is an error."""
    names = {other.partition("=")[0] for other in others}
    return [*(override for override in overrides if override.partition("=")[0] not in names), *others]
