"""From settings to bits per layer, and from these to a run."""

import json
import math

import pytest
from composing import changed, read_of, tiny

from oaq_repro import bit_search
from oaq_repro.bit_search import ASSIGNMENT_NAME, with_bits
from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.layer_times import LayerTimes, read_times, write_text
from oaq_repro.quant.config import Override
from oaq_repro.settings.identity import fine_tuned_hash, parent_hash, run_hash

FIRST, LAST, PINNED = "conv1", "fc", "layer4.1.conv2"
QUICK = ["method.search.vectors=2", "method.search.batches=1", "method.fine_tune=false", "latency=false"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def bits_of(record):
    return {layer.name: layer.bits for layer in record.assignment.layers}


def searched(results, *overrides):
    return run(changed_settings(results, *overrides))


def changed_settings(results, *overrides):
    return tiny(results, "method=hawq", *changed(QUICK, *overrides))


def test_bits_become_overrides_behind_those_of_the_settings():
    config = read_of("method=hawq").quantization
    found = list(with_bits(config, {"last": 4, "a.b": 8}).overrides.values())
    assert found[: len(config.overrides)] == list(config.overrides.values())
    assert found[len(config.overrides) :] == [Override("last", 4, 4), Override("a.b", 8, 8)]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["method.search.widths=[8]"], "method.search.widths: found \\[8\\], expected at least two, ascending"),
        (["method.search.widths=[8,4]"], "method.search.widths: found \\[8, 4\\]"),
        (["method.search.vectors=1"], "method.search.vectors: found 1"),
        (["method.search.table=x.json"], "method.search.table, constraint: found a file and bops"),
        (["method.search.draw=1"], "method.search.draw, choice: found 1 and best"),
        (["method=float32", "+method.search={}"], "method.search: found one"),
    ],
)
def test_settings_that_do_not_fit_together(fields, says):
    with pytest.raises(InputError, match=says):
        read_of(*changed(["method=hawq"], *fields))


def test_a_run_is_named_by_its_search_and_shares_what_does_not_depend_on_it():
    first, other, int8 = (
        read_of(*fields)
        for fields in (["method=hawq"], ["method=hawq", "method.search.fraction=0.25"], ["method=int8"])
    )
    assert len({run_hash(settings, "f") for settings in (first, other, int8)}) == 3
    assert len({fine_tuned_hash(settings, "f", True, False) for settings in (first, other, int8)}) == 3
    assert len({parent_hash(settings, "f") for settings in (first, other, int8)}) == 1


@pytest.mark.slow
def test_a_search_gives_a_run_its_bits(results):
    mine = f"+quantization.overrides.mine={{match: {PINNED}, weight_bits: 6}}"
    record = searched(results, mine, "method.search.widths=[2,4,8]", "method.search.fraction=0.4")
    assert record.status == "finished"
    bits, rows = bits_of(record), {layer.name: layer for layer in record.layers}
    assert set(bits) == set(rows) - {FIRST, LAST, PINNED}
    assert all(rows[name].levels_weight <= 2**width - 1 for name, width in bits.items())
    assert all(rows[name].bits_input == width for name, width in bits.items())
    assert 33 <= rows[PINNED].levels_weight <= 63 and rows[PINNED].bits_input == 8
    assert bits["layer2.0.conv1"] == bits["layer2.0.downsample.0"]
    ties = {layer.tied for layer in record.assignment.layers} - {None}
    assert ties == {f"layer{stage}.0.conv1" for stage in range(1, 5)}
    assert record.assignment.cost <= record.assignment.bound
    own = {layer.name: layer for layer in record.assignment.layers}
    assert record.assignment.cost == math.fsum(own[name].cost[width] for name, width in bits.items())
    assert record.assignment.sensitivity == pytest.approx(sum(own[n].sensitivity[w] for n, w in bits.items()))
    fixed = sum(rows[name].outputs for name in (FIRST, LAST))
    assert fixed and record.cost.bops > record.assignment.cost  # which is without the fixed layers


@pytest.mark.slow
def test_a_run_that_goes_on_goes_on_with_the_same_bits(results, monkeypatch):
    settings = changed_settings(results, "seed=1", "method.search.constraint=latency", "method.search.widths=[2,8]")
    monkeypatch.setattr("oaq_repro.experiment.fine_tune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    monkeypatch.undo()
    monkeypatch.setattr(bit_search.Search, "found", interrupted)
    record = run(settings)
    (kept,) = [p for p in results.glob(f"fine_tuned/*/1/{ASSIGNMENT_NAME}")]
    assert json.loads(kept.read_text()) == json.loads(record.assignment.model_dump_json())
    assert record.assignment.unit == "milliseconds" and record.assignment.table
    (table,) = results.glob("parents/*/1/times-*.json")
    read = read_times(table)
    for layer in record.assignment.layers:
        assert layer.cost == read.milliseconds[layer.name] and all(value > 0 for value in layer.cost.values())
    monkeypatch.undo()
    monkeypatch.setattr(bit_search, "layer_times", interrupted)  # the table is that of the file
    again = run(changed_settings(results, *settings_of_table(table)))
    assert bits_of(again) == bits_of(record) and again.hash != record.hash
    assert again.assignment.table == record.assignment.table
    kept.write_text("{}")
    with pytest.raises(InputError, match=f"{ASSIGNMENT_NAME}: cannot be read as bits of layers"):
        run(
            {
                **settings,
                "accumulator": {"bits": 20},
                "quantization": {**settings["quantization"], "accumulator": {"bits": 20}},
            }
        )


def settings_of_table(table):
    return ["seed=1", "method.search.constraint=latency", "method.search.widths=[2,8]", f"method.search.table={table}"]


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_controls_cost_no_more_and_are_no_better(results):
    found = {
        choice: searched(results, "method.search.constraint=size", f"method.search.choice={choice}").assignment
        for choice in ("best", "most", "random")
    }
    assert len({one.bound for one in found.values()}) == 1
    assert all(one.cost <= one.bound for one in found.values())
    best, most, drawn = (found[choice].sensitivity for choice in ("best", "most", "random"))
    assert best <= drawn <= most and best < most
    other = searched(results, "method.search.constraint=size", "method.search.choice=random", "method.search.draw=1")
    assert {layer.name: layer.bits for layer in found["random"].layers} != bits_of(other)


@pytest.mark.slow
def test_bits_under_a_guarantee_of_no_overflow(results):
    """Plain INT8 training, and yet every free layer is certified, on its own accumulator."""
    fields = [
        "accumulator=int16_block",
        "accumulator.block=16",
        "method.search.widths=[2,4,6,8]",
        "method.search.fraction=1",
    ]
    free, certified = (
        searched(results, *fields, f"method.search.certified={on}", "method.fine_tune=true") for on in ("false", "true")
    )
    rows = {layer.name: layer for layer in certified.layers}
    assert all(rows[name].certified and rows[name].longest_block >= 16 for name in bits_of(certified))
    assert max(bits_of(certified).values()) == 6  # 16 * 63 * 31 = 31,248
    assert certified.assignment.bound == free.assignment.bound
    assert not all(layer.certified for layer in free.layers if layer.name in bits_of(free))
    with pytest.raises(InputError, match="search.certified: found no width of \\[7, 8\\] at which layer1.0.conv1"):
        searched(results, *changed(fields, "method.search.certified=true", "method.search.widths=[7,8]"))


def test_times_are_read_as_written_and_what_is_missing_is_named(tmp_path):
    times = LayerTimes(kernels="avx2", image=(1, 8, 8), rounds=5, milliseconds={"a": {2: 0.25, 8: 0.5}})
    path = tmp_path / "times.json"
    path.write_text(write_text(times))
    assert read_times(path) == times
    assert times.of(["a"], [2], path) == {"a": {2: 0.25}}
    for names, widths in ((["a"], [2, 4]), (["b"], [2])):
        with pytest.raises(
            InputError, match=f"times.json: milliseconds: found none of {names[0]} at {widths[-1]} bits"
        ):
            times.of(names, widths, path)
    path.write_text('{"kernels": "avx2"}')
    with pytest.raises(InputError, match="times.json: image: Field required"):
        read_times(path)
    with pytest.raises(InputError, match="none.json: cannot be read"):
        read_times(tmp_path / "none.json")
