"""The schema rejects what is no value of a field, for every field of every kind; the cases come from the schema."""

import copy
import json
from functools import cache

import pytest
from composing import choice, settings_of

from oaq_repro.errors import InputError
from oaq_repro.settings.forms import form_of_run
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.schema import build, check
from oaq_repro.settings.sections import TrainerSettings

MODELS = {
    "classifier": "resnet18_small", "ssd": "ssdlite_mobilenetv2", "deeplabv3": "deeplabv3_mobilenetv2",
    "cnn": "cnn_small", "mlp": "mlp_small", "vgg": "vgg16_cifar",
    "ssdlite": "ssdlite_mobilenetv3_large", "lraspp": "lraspp_mobilenetv3_large",
}  # fmt: skip
COMMON = ("schedule", "accumulator", "quantization", "trainer", "logger", "seed", "results", "threads", "latency")
PARTS = [(section, kind) for section, kinds in KINDS.items() for kind in kinds] + [
    (section, None) for section in COMMON
]
WRONG = ["abc", "", True, 1.5, -1, 0, 10**30, 1e30, float("nan"), float("inf"), None, [], [1.5, "x"], {"x": 1}]
HOSTILE = {"_target_": "pathlib.Path.touch", "self": "touched"}


@cache
def composed_text(section, kind):
    """Settings of a run with that kind, as JSON text."""
    if kind is None:
        return json.dumps(settings_of("logger=wandb", "method=oaq"))
    task = KINDS[section][kind].task or "classification"
    preset = MODELS.get(kind, kind)
    return json.dumps(settings_of(f"task={task}", *choice(section, preset)))


def settings_with(section, kind):
    """Fresh settings of a run with that kind."""
    return json.loads(composed_text(section, kind))


class Node:
    """One place of the schema as pydantic writes it for JSON: which types, bounds and names it allows."""

    def __init__(self, schema, root):
        self.root = root
        found = [self.resolved(part) for part in schema.get("anyOf", [schema])]
        self.forms = [form for part in found for form in part.get("anyOf", [part])]

    def resolved(self, schema):
        return self.root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def fields(self):
        """The nested fields of an object with known names."""
        return {
            name: Node(inner, self.root) for form in self.forms for name, inner in form.get("properties", {}).items()
        }

    def accepts(self, value):
        return any(self.form_accepts(form, value) for form in self.forms)

    def form_accepts(self, form, value):
        if "enum" in form or "const" in form:
            return any(value == known and type(value) is type(known) for known in form.get("enum", [form.get("const")]))
        kind = form.get("type")
        if isinstance(value, bool) or value is None or kind in ("boolean", "null"):
            return kind == {bool: "boolean", type(None): "null"}.get(type(value))
        if isinstance(value, str):
            return kind == "string" and len(value) >= form.get("minLength", 0)
        if isinstance(value, int | float):
            if kind not in ("integer", "number") or (kind == "integer" and isinstance(value, float)):
                return False
            return form.get("minimum", value) <= value <= form.get("maximum", value) and form.get(
                "exclusiveMinimum", value - 1
            ) < value < form.get("exclusiveMaximum", value + 1)
        if isinstance(value, list):
            return kind == "array" and not value and form.get("minItems", 0) == 0
        return form.get("additionalProperties") is True  # else: a mapping with a field that nobody knows


def fields_below(node, path, values):
    """Every field with its path; sections that are null are made, to reach what is in them."""
    for name, inner in node.fields().items():
        if name not in values or (values[name] is None and inner.fields()):
            values[name] = {}
        yield (*path, name), inner
        if isinstance(values[name], dict):
            yield from fields_below(inner, (*path, name), values[name])


@cache
def cases(section, kind):
    """(path, wrong value) for the fields of one section, and the settings in which each stands."""
    settings = settings_with(section, kind)
    root = form_of_run(settings).model_json_schema()
    node = Node(root["properties"][section], root)
    fields = [((section,), node)]
    if isinstance(settings[section], dict):
        fields += fields_below(node, (section,), settings[section])
    found = [(path, value) for path, inner in fields for value in WRONG if not inner.accepts(value)]
    unknown = [((*path, "bogus"), 1) for path, inner in fields if inner.fields()]
    found += unknown + [(path, HOSTILE) for path, inner in fields if not inner.accepts(HOSTILE)]
    return settings, found


def message_for(settings, path, value):
    """What `check` says of settings in which one field is wrong; "" where it accepts them."""
    changed = copy.deepcopy(settings)
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    try:
        check(changed)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("section, kind", PARTS)
def test_every_wrong_value_of_every_field_is_named(section, kind):
    settings, found = cases(section, kind)
    assert len(found) >= 10
    for path, value in found:
        lines = message_for(settings, path, value).splitlines()
        name = ".".join(path)
        assert any(line.startswith((f"{name}:", f"{name}.")) for line in lines), (name, value, lines)
        assert all(": found " in line or ": no such field; expected one of" in line for line in lines), lines


def test_there_are_enough_cases():
    assert sum(len(cases(section, kind)[1]) for section, kind in PARTS) >= 4000


def test_several_errors_are_several_lines():
    settings = settings_of()
    settings["data"] |= {"batch_size": 0, "image_size": "x"}
    settings["trainer"]["bogus"] = 1
    with pytest.raises(InputError) as caught:
        check(settings)
    assert str(caught.value).splitlines() == [
        "data.batch_size: found 0, expected greater than or equal to 1",
        "data.image_size: found 'x', expected a valid integer or a valid array",
        "trainer.bogus: no such field; expected one of " + ", ".join(TrainerSettings.model_fields),
    ]


@pytest.mark.parametrize(
    "override, message",
    [
        (
            "schedule.finetune.steps=5",
            "schedule.finetune.epochs, steps: found 6 and 5, expected a number for",
        ),
        ("accumulator.lanes=0", "accumulator.lanes: found 0, expected an integer of at least 1"),
        ("accumulator={bits: 16, lanes: 8, block: 4}", "accumulator: found lanes=8 with block=4, expected one of them"),
        ("method.lr=0.5", "method.lr, lr_max: found 0.5 and 0.2, expected lr of at most lr_max"),
        ("quantization.overrides.first.accumulator=int99", "quantization.overrides.first.accumulator.bits: found 99"),
        ("quantization.overrides.first.accumulator=x", "quantization.overrides.first.accumulator: found 'x', expected"),
        ("+quantization.overrides.mine={weight_bits: 3}", "quantization.overrides.mine.match: found nothing"),
        ("+quantization.overrides.mine={match: fc, bitts: 3}", "quantization.overrides.mine.bitts: no such field; exp"),
        ("quantization.accumulator=int12", "quantization.accumulator: found 'int12', expected"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(override, message):
    with pytest.raises(InputError) as caught:
        check(settings_of(override))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["task=classification", "data=voc_detection"],
            "data: found voc_detection, which is for detection, with task=classification",
        ),
        (
            ["task=detection", "data=digits"],
            "data: found digits, which is for classification, with task=detection; exp",
        ),
        (["task=detection", "model=resnet18"], "model: found classifier, which is for classification, with task=detec"),
    ],
)
def test_task_data_and_model_belong_together(overrides, message):
    with pytest.raises(InputError, match=message):
        check(settings_of(*overrides))


@pytest.mark.parametrize("section", list(KINDS))
@pytest.mark.parametrize("found", [None, "oaq", {}, {"kind": None}, {"kind": "nosuch"}, {"kind": 3}, {"kind": []}])
def test_a_bad_kind(section, found):
    with pytest.raises(
        InputError, match=rf"^{section}(\.kind)?: found .*, expected one of {next(iter(KINDS[section]))}"
    ):
        build(section, found)
    with pytest.raises(InputError, match=rf"^{section}(\.kind)?: found"):
        check(settings_of() | {section: found})


def test_what_is_checked_has_all_fields_and_is_fine():
    settings = settings_of()
    del settings["threads"], settings["method"]["lr"], settings["schedule"]["float"]["validations"]
    checked = check(settings)
    assert checked["threads"] is None and checked["method"]["lr"] == 0.02
    assert checked["schedule"]["float"]["validations"] == 5
    assert check(checked) == checked
