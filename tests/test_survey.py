from pathlib import Path

import pytest
import yaml
from composing import TWO_STEPS, changed, settings_of

from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.survey import load_axes, render

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "docs" / "survey.yaml"
VALUES = [(axis.axis, value) for axis in load_axes(WORDS) for value in axis.values]
HERE = [pytest.param(value, id=f"{axis}: {value.value}") for axis, value in VALUES if value.config]
SMALL = [*TWO_STEPS, "data.subset=16", "data.val_subset=8"]
STEPS = {"hawq": ["method.search.vectors=2", "method.search.batches=1"]}


def test_the_committed_file_is_the_regenerated_one():
    """Which composes and reads every configuration."""
    assert (ROOT / "SURVEY.md").read_text(encoding="utf-8") == render(WORDS), "run scripts/make_deviations.py"


def test_no_value_is_without_a_config_or_a_reason():
    assert len(VALUES) > 50
    for axis, value in VALUES:
        assert (value.config is None) != (value.reason is None), (axis, value.value)
        assert value.reason is None or len(value.reason) > 20, (axis, value.value)


@pytest.mark.slow
@pytest.mark.parametrize("value", HERE)
def test_every_config_runs_and_ends_as_the_page_says(value, tmp_path):
    """Two steps of every training, on a few digits, all stages."""
    method = next(o.partition("=")[2] for o in value.config if o.startswith("method="))
    overrides = changed([*SMALL, *STEPS.get(method, ()), f"results={tmp_path}"], *value.config)
    if "calibration.source=distilled" in " ".join(value.config):
        overrides.append("quantization.calibration.steps=2")
    record = run(settings_of(*overrides))
    assert record.status == "finished"
    assert ("integer" in record.metrics) == (value.here != "simulated")
    assert bool(record.simulated_only) == (value.here == "simulated")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": ["method=nosuch"]}, r"'v': config: method=nosuch: .*nosuch"),
        ({"config": ["method=int8", "method.nosuch=1"]}, r"'v': config: method=int8 method.nosuch=1"),
        ({"config": ["method=codebook", "quantization.weight_bits=99"]}, "weight_bits: found 99"),
        ({"config": None}, "'v': expected a config, or here: no and a reason"),
        ({"here": "no"}, "'v': expected a config, or here: no and a reason"),
        ({"here": "perhaps"}, "here: found 'perhaps'"),
        ({"reason": "why"}, "'v': expected a config, or here: no and a reason"),
        ({"configs": []}, "configs"),
    ],
)
def test_bad_entries(tmp_path, changes, message):
    value = {"value": "v", "here": "engine", "config": ["method=int8"]} | changes
    path = tmp_path / "survey.yaml"
    path.write_text(yaml.safe_dump([{"axis": "a", "section": "I", "values": [value]}]))
    with pytest.raises(InputError, match=message):
        render(path)


def test_a_value_that_stands_twice(tmp_path):
    value = {"value": "v", "here": "no", "reason": "a reason of more than a word"}
    path = tmp_path / "survey.yaml"
    path.write_text(yaml.safe_dump([{"axis": "a", "section": "I", "values": [value, value]}]))
    with pytest.raises(InputError, match="a: found 'v' twice"):
        load_axes(path)
