import dataclasses
from itertools import zip_longest

import pytest
from composing import built, choice, composed, quantization_of, settings_of
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from oaq_repro.errors import InputError
from oaq_repro.settings.composing import config_folder, groups_without_files, resolve
from oaq_repro.settings.forms import form_of
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.schema import check

GROUPS = {
    "task=classification": [
        "data=digits",
        "data=cifar10",
        "data=cifar100",
        "data=tiny_imagenet",
        "data=imagenet",
        "data=jets",
    ],  # fmt: skip
    "task=detection": ["data=scenes_detection", "data=voc_detection", "data=coco_detection"],
    "task=segmentation": ["data=scenes_segmentation", "data=voc_segmentation", "data=coco_segmentation", "data=camvid"],
    "task=video": ["data=digit_clips", "data=activitynet", "data=fcvid", "data=mini_kinetics"],
}


DATA = [(task, data) for task, found in GROUPS.items() for data in found]


@pytest.mark.parametrize("task, data", DATA)
def test_every_data_set_brings_its_task_a_network_and_a_schedule(task, data):
    settings = check(settings_of(data))
    assert settings == check(settings_of(task, data)) and settings["task"]["kind"] == task.partition("=")[2]
    assert settings["schedule"]["controller_interval"] >= 1
    assert settings["schedule"]["float"] and settings["schedule"]["finetune"]
    assert settings["model"]["kind"] and settings["data"]["kind"] == data.partition("=")[2]


@pytest.mark.parametrize(
    "group", ["method", "accumulator", "requantization", "schedule", "model", "data", "logger", "trainer"]
)
def test_every_config_composes(group):
    names = [path.stem for path in sorted((config_folder() / group).glob("*.yaml"))]
    assert names
    for name in names:
        kind = settings_of(*choice(group, name)).get(group, {}).get("kind")
        chosen = KINDS[group][kind].task if group in ("data", "model", "method") else "detection"
        check(settings_of(f"task={chosen or 'detection'}", *choice(group, name)))


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
            check(resolve(run))
    text = (config_folder() / "experiment" / f"{name}.yaml").read_text()
    assert all(word in text for word in ("command:", f"+experiment={name}", "cost:", "expected:"))


@pytest.mark.parametrize("method", sorted(path.stem for path in (config_folder() / "method").glob("*.yaml")))
def test_methods_are_built_from_configs_that_name_every_field(method):
    made = built("method", f"method={method}")
    assert (made.settle is not None) == (method in ("oaq", "int8_settle", "ptq_oaq", "videoiq", "videoiq_small"))
    assert made.fine_tune == (method not in ("ptq_int8", "ptq_oaq", "axe", "pmf", "qap", "codebook", "group_scale"))
    options = {f.name for f in dataclasses.fields(made) if f.init}
    named = composed(f"method={method}").method.keys() - {"kind"}
    assert method == "float32" or options == named or (method == "qap" and options > named)  # which is for any kind


def without_values(settings):
    return {key: without_values(value) for key, value in settings.items()} if isinstance(settings, dict) else None


@pytest.mark.parametrize("task, data", DATA)
def test_every_field_is_in_the_configuration(task, data):
    """So that each can be set without a `+`."""
    settings = settings_of(data)
    settings["quantization"]["overrides"] = {}
    assert without_values(settings | {"choices": {}}) == without_values(check(settings))


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_folder() / "model").glob("*.yaml")))
def test_every_field_of_a_model_is_in_its_configuration(name):
    settings = settings_of(*choice("model", name))["model"]
    assert settings.keys() == form_of("model", settings["kind"]).model_fields.keys()


def test_the_command_line_wins_over_what_data_and_task_choose():
    config = composed("task=detection", "data=voc_detection", "model=ssd_mobilenetv1", "schedule=coco_detection")
    assert config.model.arch == "mobilenetv1"
    assert config.data.kind == "voc_detection"


def test_data_choose_fields_of_the_top_level_that_the_command_line_may_change():
    assert composed("task=classification").threads is None
    assert composed("task=detection").threads == 1
    assert composed("task=detection", "threads=2").threads == 2


def test_the_ends_of_a_network_can_be_set_on_the_command_line():
    config = quantization_of("quantization.overrides.first.accumulator=int12", "~quantization.overrides.last")
    (first,) = config.overrides.values()
    assert first.match == "@first" and first.accumulator.bits == 12


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(
        InputError,
        match=r"method.momentum: no such field; expected one of kind, settle, .*, search, pruning, rule",
    ):
        built("method", "+method.momentum=0.9")


def test_errors_of_the_object_pass_through():
    with pytest.raises(InputError, match="accumulator.bits: found 99"):
        check(settings_of("accumulator.bits=99"))
    with pytest.raises(InputError, match="quantization.accumulator: found 'int12'"):
        quantization_of("quantization.accumulator=int12")
    with pytest.raises(InputError, match="data.mean, data.std: found .*expected as many as channels"):
        built("data", "data.mean=[0.1,0.2]")


@pytest.mark.parametrize("value", ["null", "5", "true", "{kind: oaq}"])
@pytest.mark.parametrize("group", ["method", "data", "hydra"])
def test_a_group_takes_the_name_of_a_file(group, value):
    expected = 0 if group == "hydra" else 1
    messages = groups_without_files(["--multirun", "seed=1", "model=a,b", f"{group}={value}", "x=[", "~trainer"])
    assert len(messages) == expected
    assert all(message.startswith(f"{group}: found ") and "expected one of" in message for message in messages)


def test_an_interpolation_that_leads_nowhere_is_one_line():
    with pytest.raises(InputError, match="^configuration: .*nowhere"):
        settings_of("seed=${nowhere}")
