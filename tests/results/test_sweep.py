import csv
import io

import pytest

from oaq_repro.results.plotting import Plot
from oaq_repro.results.sweep import sweeps
from oaq_repro.results.sweep_figures import accuracy_bits, accuracy_latency


def policy(bits: int, **fields: object) -> dict[str, object]:
    return {"bits": bits, "overflow": "wrap", "lanes": 1, "block": None} | fields


@pytest.fixture
def make_sweep(make_record, make_config):
    """Records of methods x widths x seeds; of "safe" every layer is certified."""

    def make(methods=("int8", "oaq", "safe"), widths=(12, 14, 16, 32), seeds=2, **config):
        records = []
        for i, (method, bits) in enumerate((m, b) for m in methods for b in widths):
            for seed in range(seeds):
                accuracy = {"integer": {"top1": 0.5 + bits / 100 + seed / 100}}
                stages = {name: {"top1": 0.9} for name in ("float", "simulated", "integer_int32")}
                chosen = make_config(method={"kind": method}, accumulator=policy(bits), seed=seed, **config)
                record = make_record(3, seed=seed, hash=f"{i:016x}", config=chosen, metrics=stages | accuracy)
                if method == "safe":
                    record.layers = [x.model_copy(update={"certified": True}) for x in record.layers]
                records.append(record)
        return records

    return make


def numbers(plot: Plot) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plot.files()[f"{plot.name}.csv"].decode())))


def test_only_method_and_accumulator_may_differ(make_sweep, make_record, make_config) -> None:
    records = make_sweep()
    assert len(sweeps(records)) == 1
    other_schedule = make_record(3, hash="f" * 16, config=make_config(schedule={"finetune": {"epochs": 3}}))
    other_bits = make_record(3, hash="e" * 16, config=make_config(quantization={"weight_bits": 6}))
    other_place = make_record(3, hash="d" * 16, config=make_config(data=make_config()["data"] | {"root": "there"}))
    assert [len(sweep.series) for sweep in sweeps([*records, other_schedule, other_bits])] in (
        [3, 1, 1],
        [1, 3, 1],
        [1, 1, 3],
    )
    assert len(sweeps([*records, other_place])) == 1


def test_methods_that_are_not_trained_stand_beside_those_that_are(make_record, make_config) -> None:
    def record(number, fine_tune, epochs, **task):
        method = {"kind": "int8", "fine_tune": fine_tune}
        schedule = {"finetune": {"epochs": epochs}}
        config = make_config(method=method, schedule=schedule, task={"kind": "classification"} | task)
        return make_record(3, hash=f"{number:016x}", config=config)

    untrained, taught = record(0, False, 10), record(1, True, 3, teacher="float")
    (joined,) = sweeps([untrained, taught])
    assert sum(map(len, joined.series.values())) == 2
    assert joined.name == sweeps([taught])[0].name
    assert len(sweeps([untrained, taught, record(2, True, 4)])) == 3  # beside which of the two?


def test_the_name_of_a_sweep_stays_when_runs_are_added(make_sweep) -> None:
    few, many = sweeps(make_sweep(("oaq",))), sweeps(make_sweep())
    assert few[0].name == many[0].name


def test_series_of_one_method_are_told_apart_by_what_differs(make_record, make_config) -> None:
    rules = ("paper", "scale_free")
    records = [
        make_record(3, hash=f"{i:016x}", config=make_config(method={"kind": "oaq", "rule": rule, "lr": 0.1}))
        for i, rule in enumerate(rules)
    ]
    assert list(sweeps(records)[0].series) == ["oaq (rule=paper)", "oaq (rule=scale_free)"]


def test_a_field_that_is_newer_than_a_record_splits_no_series(make_record, make_config) -> None:
    records = []
    for i, method in enumerate(({"kind": "oaq"}, {"kind": "oaq", "rounding": "nearest"})):
        config = make_config(method=method, accumulator={"bits": 16 - i, "overflow": "wrap", "lanes": 1, "block": None})
        record = make_record(3, hash=f"{i:016x}", config=config)
        records.append(record.model_copy(update={"science": record.science | {"method": {"kind": "oaq"}}}))
    assert list(sweeps(records)[0].series) == ["oaq"]


def test_accuracy_against_bits(make_sweep) -> None:
    (sweep,) = sweeps(make_sweep())
    plot = accuracy_bits(sweep)
    assert plot is not None
    rows = numbers(plot)
    assert [(r["method"], r["bits"]) for r in rows[:3]] == [("int8", "12"), ("int8", "14"), ("int8", "16")]
    assert float(rows[0]["difference"]) == pytest.approx(0.625 - 0.9)
    assert float(rows[0]["half_95"]) == pytest.approx(12.7062 * 0.005, rel=1e-4)
    assert {r["method"] for r in rows if r["certified"] == "1"} == {"safe"}
    assert rows[-1]["method"] == "int8 on int32" and float(rows[-1]["difference"]) == 0.0
    titles = [axes.get_title(loc="left") for axes in plot.figure.axes]
    assert len(titles) == 2 and "possible" in titles[0] and "certified" in titles[1]


def test_one_width_or_split_sums_are_no_sweep_of_bits(make_sweep, make_record, make_config) -> None:
    (sweep,) = sweeps(make_sweep(widths=(16, 32)))
    assert accuracy_bits(sweep) is None
    lanes = make_record(3, hash="f" * 16, config=make_config(accumulator=policy(12, lanes=8)))
    (sweep,) = sweeps([*make_sweep(widths=(16, 32)), lanes])
    assert accuracy_bits(sweep) is None


def test_accuracy_against_latency(make_sweep) -> None:
    (sweep,) = sweeps(make_sweep())
    plot = accuracy_latency(sweep)
    assert plot is not None
    found = {(r["method"], r["accumulator"], r["mode"]): (float(r["ms"]), float(r["accuracy"])) for r in numbers(plot)}
    assert {(method, accumulator) for method, accumulator, _ in found} == {
        ("int8", "int16"), ("int8", "int32"), ("oaq", "int16"), ("safe", "int16"),
    }  # fmt: skip
    assert found["oaq", "int16", "fast"] == (10.0, pytest.approx(0.665))
    assert found["oaq", "int16", "certified"] == (12.5, pytest.approx(0.9))


def test_times_of_several_processors_are_not_compared(make_sweep) -> None:
    records = make_sweep()
    records[0].provenance.hardware.cpu = "another"
    assert accuracy_latency(sweeps(records)[0]) is None
    for record in records:
        record.latency_ms = {}
    assert accuracy_latency(sweeps(records)[0]) is None


def test_the_same_records_give_the_same_bytes(make_sweep) -> None:
    first, second = (accuracy_bits(sweeps(order)[0]) for order in (make_sweep(), make_sweep()[::-1]))
    assert first is not None and second is not None
    assert first.files() == second.files()
    svg = first.files()[f"{first.name}.svg"]
    assert b"<dc:date>" not in svg and b"accumulator bits</text>" in svg
