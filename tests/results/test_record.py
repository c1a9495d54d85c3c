import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from oaq_repro.errors import InputError
from oaq_repro.results.measures import METRICS, STAGES
from oaq_repro.results.record import Record, load_record, record_schema, save_record
from oaq_repro.results.sections import Overflow

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FRACTION = st.floats(0, 1)
POSITIVE = st.floats(2**-10, 1e9)


@st.composite
def records(draw: st.DrawFn) -> Record:
    names = draw(st.lists(TEXT, unique=True, max_size=4))
    outputs = {name: draw(COUNT) for name in names}
    images = draw(COUNT)
    overflow = {
        "settle": {name: draw(st.integers(0, outputs[name])) for name in names},
        "evaluation": {name: draw(st.integers(0, outputs[name])) for name in names},
        "images_affected": draw(st.integers(0, images)),
        "images": images,
        "outputs": outputs,
        "settle_images": draw(COUNT),
        "settle_outputs": outputs,
    }
    layers = [
        {
            "name": name,
            "kind": draw(TEXT),
            "alpha_activation": draw(POSITIVE),
            "alpha_weight": draw(POSITIVE),
            "bits_activation": draw(st.floats(0, 32)),
            "bits_weight": draw(st.floats(0, 32)),
            "levels_weight": draw(st.none() | COUNT),
            "bits_input": draw(st.none() | COUNT),
            "overflow_seen": draw(COUNT),
            "outputs": outputs[name],
            "worst_case": draw(st.none() | st.floats(0, 1e9)),
            "certified": draw(st.booleans()),
            "longest_block": draw(st.none() | COUNT),
            "accumulator": draw(TEXT),
            "route": draw(TEXT),
            "route_certified": draw(TEXT),
            "reason": draw(st.none() | TEXT),
        }
        for name in names
    ]
    cost = {
        "macs": draw(COUNT),
        "bops": draw(COUNT),
        "bops_qap": draw(st.floats(0, 1e20)),
        "weight_bytes": draw(st.floats(0, 1e12)),
        "density": draw(FRACTION),
    }
    metric = st.dictionaries(st.sampled_from(METRICS), FRACTION, min_size=1)
    return Record.model_validate(
        {
            "hash": draw(st.text("0123456789abcdef", min_size=16, max_size=16)),
            "seed": draw(st.integers(0, 2**31)),
            "status": draw(st.sampled_from(["finished", "failed", "interrupted"])),
            "config": draw(st.dictionaries(TEXT, JSON, max_size=4)),
            "metrics": draw(st.dictionaries(st.sampled_from(STAGES), metric, min_size=1)),
            "overflow": draw(st.none() | st.just(overflow)),
            "layers": layers,
            "cost": draw(st.none() | st.just(cost)),
            "latency_ms": draw(st.dictionaries(TEXT, st.floats(0, 1e6), max_size=2)),
            "swapped": draw(st.lists(TEXT, max_size=2)),
            "left_float": draw(st.lists(TEXT, max_size=2)),
            "provenance": {
                "git_revision": draw(st.none() | TEXT),
                "git_dirty": draw(st.none() | st.booleans()),
                "git_reason": draw(st.none() | TEXT),
                "packages": draw(st.dictionaries(TEXT, TEXT, max_size=2)),
                "dataset": draw(TEXT),
                "dataset_fingerprint": draw(TEXT),
                "hardware": {"cpu": draw(TEXT), "cores": 4, "memory_gib": draw(st.none() | POSITIVE), "gpu": None},
                "kernels": draw(st.none() | TEXT),
                "wall_time_s": draw(st.floats(0, 1e9)),
                "started": draw(TEXT),
                "error": draw(st.none() | TEXT),
            },
        }
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(record=records())
def test_round_trip(record: Record, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("record") / "record.json"
    save_record(record, path)
    assert load_record(path) == record
    first = path.read_bytes()
    save_record(load_record(path), path)
    assert path.read_bytes() == first


def test_record_has_the_keys_that_tools_rely_on(make_record, tmp_path: Path) -> None:
    data = json.loads(save_record(make_record(), tmp_path / "record.json").read_text())
    assert {"hash", "seed", "status", "config", "metrics", "overflow", "layers", "latency_ms", "provenance"} <= set(
        data
    )
    assert {"settle", "evaluation", "images_affected", "images"} <= set(data["overflow"])
    layer_keys = "name alpha_activation alpha_weight overflow_seen outputs worst_case certified route"
    assert set(layer_keys.split()) <= set(data["layers"][0])


def _change(data: dict, where: str, value: object) -> None:
    *path, last = where.split(".")
    for part in path:
        data = data[int(part)] if part.isdigit() else data[part]
    data[last] = value


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("surprise", 1, "field surprise: is not a known field"),
        ("layers.3.beta", 1.0, "field layers.3.beta: is not a known field"),
        ("layers.2.alpha_weight", -1.0, "field layers.2.alpha_weight: found -1.0, expected greater than 0"),
        ("layers.2.alpha_weight", "2", "field layers.2.alpha_weight: found '2', expected a valid number"),
        ("layers.1.overflow_seen", 1.5, "field layers.1.overflow_seen: found 1.5"),
        ("metrics.integer.top1", 72.3, "field metrics.integer.top1: found 72.3, expected less than or equal to 1"),
        ("metrics.final", {}, "metrics.final"),
        ("metrics.float.accuracy", 0.5, "metrics.float.accuracy"),
        ("status", "done", "field status: found 'done'"),
        ("hash", "abc", "field hash: found 'abc'"),
        ("seed", True, "field seed: found True"),
        ("overflow.images_affected", 10**9, "field overflow: images_affected is 1000000000"),
        ("overflow.outputs", {}, "field overflow: evaluation has layer"),
        ("overflow.settle_outputs", {}, "field overflow: settle has layer"),
        ("provenance.hardware.cpu", None, "field provenance.hardware.cpu: found None"),
        ("layers", [], "field checksum: is not that of the other fields"),
    ],
)
def test_load_names_file_and_field(make_record, tmp_path: Path, where: str, value: object, said: str) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    data = json.loads(path.read_text())
    _change(data, where, value)
    path.write_text(json.dumps(data))
    with pytest.raises(InputError) as caught:
        load_record(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_an_early_version_has_no_checksum(make_record, tmp_path: Path) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    data = json.loads(path.read_text())
    del data["checksum"]
    data["layers"] = []
    path.write_text(json.dumps(data))
    assert load_record(path).layers == []


def test_no_flipped_bit_gives_another_record(make_record, tmp_path: Path) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    whole, record = path.read_bytes(), load_record(path)
    for place in range(0, len(whole), 29):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert load_record(path) == record  # white space
        except InputError as error:
            assert "record.json: " in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("key", ["hash", "config", "provenance"])
def test_missing_field_is_named(make_record, tmp_path: Path, key: str) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"field {key}: is missing"):
        load_record(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b'{"hash": NaN}'])
def test_corrupt_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="record.json"):
        load_record(path)


def test_half_a_record_is_not_a_record(make_record, tmp_path: Path) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"record\.json: is not valid JSON"):
        load_record(path)


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_record(tmp_path / "record.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_record(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_only_finite_numbers(make_record, tmp_path: Path, value: float) -> None:
    with pytest.raises(ValidationError):
        make_record(metrics={"float": {"top1": value}})
    with pytest.raises(ValidationError):
        make_record(config={"schedule": {"lr": [value]}})
    changed = make_record()
    changed.latency_ms["fast"] = value
    with pytest.raises(InputError, match=r"latency_ms\.fast"):
        save_record(changed, tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


def test_layer_names_are_unique(make_record, tmp_path: Path) -> None:
    record = make_record(3)
    record.layers.append(record.layers[0])
    with pytest.raises(InputError, match="twice"):
        save_record(record, tmp_path / "record.json")


def test_finished_run_needs_metrics(make_record, tmp_path: Path) -> None:
    record = make_record(3)
    record.metrics.clear()
    with pytest.raises(InputError, match="metrics is empty"):
        save_record(record, tmp_path / "record.json")


@pytest.mark.parametrize("broken", ["replace", "write"])
def test_full_disk_keeps_the_old_record(
    make_record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = save_record(make_record(), tmp_path / "record.json")
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if broken == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"record\.json.*[Nn]o space left"):
        save_record(make_record(5), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_overflow_totals() -> None:
    overflow = Overflow(
        settle={"a": 1},
        evaluation={"a": 2, "b": 3},
        images_affected=1,
        images=2,
        outputs={"a": 9, "b": 9},
        settle_outputs={"a": 9},
    )
    assert (overflow.settle_events, overflow.evaluation_events) == (1, 5)


def test_schema_describes_the_file(make_record, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    data = json.loads(save_record(make_record(), tmp_path / "record.json").read_text())
    validator = jsonschema.Draft202012Validator(record_schema())
    validator.validate(data)
    data["surprise"] = 1
    assert [error.validator for error in validator.iter_errors(data)] == ["additionalProperties"]
