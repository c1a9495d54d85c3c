import dataclasses
from itertools import chain, zip_longest

import pytest
from composing import composed
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from oaq_repro.configuration import build, config_folder
from oaq_repro.errors import InputError

GROUPS = {
    "task=classification": ["data=digits", "data=cifar10", "data=imagenet"],
    "task=detection": ["data=scenes", "data=voc_detection", "data=coco_detection"],
    "task=segmentation": ["data=scenes", "data=voc_segmentation", "data=coco_segmentation", "data=camvid"],
}


@pytest.mark.parametrize("task, data", list(chain(*([(t, d) for d in data] for t, data in GROUPS.items()))))
def test_every_data_set_brings_a_network_and_a_schedule(task, data):
    config = composed(task, data)
    assert config.schedule.controller_interval >= 1
    for stage in ("float", "finetune"):
        build(config.schedule[stage], f"schedule.{stage}")
    assert config.model._target_ and config.data._target_


@pytest.mark.parametrize("group", ["method", "accumulator", "schedule", "model", "data", "logger", "trainer"])
def test_every_config_composes(group):
    names = [path.stem for path in sorted((config_folder() / group).glob("*.yaml"))]
    assert names
    for name in names:
        task = {"voc": "detection", "coco": "detection", "camvid": "segmentation", "scenes": "detection"}
        chosen = task.get(name.split("_")[0], "classification") if group == "data" else "detection"
        if name.endswith("segmentation"):
            chosen = "segmentation"
        composed(f"task={chosen}", f"{group}={name}")


EXPERIMENTS = sorted(
    str(path.relative_to(config_folder() / "experiment").with_suffix(""))
    for path in (config_folder() / "experiment").rglob("*.yaml")
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_its_first_run_is_built(name):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"+experiment={name}"], return_hydra_config=True)
        params = config.hydra.sweeper.params or {}
        overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
        swept = [[f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] for o in overrides]
        assert (str(config.hydra.mode) == "RunMode.MULTIRUN") == bool(swept)
        for values in zip_longest(*swept):  # every value once
            run = compose("config", overrides=[f"+experiment={name}", *filter(None, values)])
            for part in ("method", "quantization"):
                build(run[part], part)
            for stage in ("float", "finetune"):
                build(run.schedule[stage], f"schedule.{stage}")
    text = (config_folder() / "experiment" / f"{name}.yaml").read_text()
    assert all(word in text for word in ("command:", f"+experiment={name}", "cost:", "expected:"))


@pytest.mark.parametrize("method", sorted(path.stem for path in (config_folder() / "method").glob("*.yaml")))
def test_methods_are_built_from_configs_that_name_every_field(method):
    config = composed(f"method={method}").method
    built = build(config, "method")
    assert (built.settle is not None) == (method in ("oaq", "int8_settle"))
    assert built.fine_tune == (method != "ptq_int8")
    options = {f.name for f in dataclasses.fields(built) if f.init}
    assert method == "float32" or options == {name for name in config if name != "_target_"}


def test_the_command_line_wins_over_what_data_and_task_choose():
    config = composed("task=detection", "data=voc_detection", "model=ssd_mobilenetv1", "schedule=coco_detection")
    assert config.model.arch == "mobilenetv1"
    assert config.data._target_.endswith("VocDetection")


def test_data_choose_fields_of_the_top_level_that_the_command_line_may_change():
    assert composed("task=classification").threads is None
    assert composed("task=detection").threads == 1
    assert composed("task=detection", "threads=2").threads == 2


def test_the_ends_of_a_network_can_be_set_on_the_command_line():
    config = composed("quantization.overrides.first.accumulator=int12", "~quantization.overrides.last")
    (first,) = build(config.quantization, "quantization").overrides.values()
    assert first.match == "@first" and first.accumulator.bits == 12


def test_an_unknown_field_is_named_with_the_known_ones():
    config = composed("+method.momentum=0.9")
    with pytest.raises(
        InputError, match=r"method.momentum: no such field; expected one of settle, fine_tune, rule, interval"
    ):
        build(config.method, "method")


def test_errors_of_the_object_pass_through():
    with pytest.raises(InputError, match="accumulator.bits: found 99"):
        build(composed("accumulator.bits=99").accumulator, "accumulator")
    with pytest.raises(InputError, match="quantization.accumulator: found 'int12'"):
        build(composed("quantization.accumulator=int12").quantization, "quantization")


@pytest.mark.parametrize("target", [None, "no.such.module", "oaq_repro.nothing"])
def test_a_bad_target(target):
    with pytest.raises(InputError, match="method._target_|method: found no _target_"):
        build({"_target_": target}, "method")
