import csv
import io
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oaq_repro.results.labels import label
from oaq_repro.results.summary import interval
from oaq_repro.results.tables import comparison, comparison_grid, csv_text, markdown


def _metrics(integer: float, name: str = "top1") -> dict[str, dict[str, float]]:
    return {"float": {name: 0.75}, "simulated": {name: 0.7}, "integer_int32": {name: 0.7}, "integer": {name: integer}}


def _row(text: str, run: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.endswith(f"| {run[:8]} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_interval_is_students_t(values: list[float]) -> None:
    found = interval(values)
    assert found.half is not None
    n = len(values)
    mean = sum(values) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    if error < 1e-9:
        assert found.half < 1e-6
        return
    low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=error)
    assert found.mean - found.half == pytest.approx(low, abs=1e-9)
    assert found.mean + found.half == pytest.approx(high, abs=1e-9)


def test_one_seed_has_no_interval() -> None:
    assert (interval([0.5]).mean, interval([0.5]).half) == (0.5, None)


def test_seeds_are_grouped(make_record) -> None:
    values = [0.70, 0.71, 0.73]
    records = [make_record(5, seed=seed, metrics=_metrics(value)) for seed, value in enumerate(values)]
    (row,) = comparison(records)
    low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
    assert row.seeds == 3
    assert row.stages["integer"].half == pytest.approx((high - low) / 2)
    assert row.images == 3 * records[0].overflow.images
    assert row.overflow_outputs == sum(record.overflow.evaluation_events for record in records)
    cells = _row(markdown([row]), row.hash)
    assert cells[:8] == ["classification", "cifar10", "classifier", "oaq", "int16", "-", "top1", "3"]
    assert cells[8:10] == ["75.00 ± 0.00", "70.00 ± 0.00"]
    assert cells[11] == f"71.33 ± {100 * (high - low) / 2:.2f}"


def test_only_finished_runs_are_averaged(make_record) -> None:
    finished = make_record(4, seed=0)
    failed = make_record(4, seed=1, status="failed", error="disk | full\nreally")
    rows = comparison([finished, failed])
    assert [row.seeds for row in rows] == [1]
    text = markdown(rows, [failed])
    assert "| 0123456789abcdef | 1 | failed | disk \\| full really |" in text


def test_every_metric_has_its_row_and_missing_stages_are_dashes(make_record) -> None:
    record = make_record(4, metrics={"float": {"map50": 0.4, "map": 0.2}, "integer": {"map50": 0.3, "map": 0.1}})
    rows = comparison([record])
    assert [row.metric for row in rows] == ["map50", "map"]
    cells = markdown(rows[:1])
    assert _row(cells, record.hash)[8:12] == ["40.00", "-", "-", "30.00"]


def test_tables_are_deterministic(make_record, make_config) -> None:
    records = [
        make_record(4, seed=seed, hash=digit * 16, config=make_config(method={"kind": method}), metrics=_metrics(value))
        for digit, method in (("c", "int8"), ("a", "pact"), ("b", "oaq"))
        for seed, value in enumerate((0.7, 0.71, 0.702))
    ]
    expected = comparison(records)
    assert [row.labels[3] for row in expected] == ["int8", "oaq", "pact"]
    shuffled = records.copy()
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        rows = comparison(shuffled)
        assert markdown(rows) == markdown(expected)
        assert csv_text(rows) == csv_text(expected)


def test_csv_has_fractions_to_nine_digits(make_record) -> None:
    records = [make_record(4, seed=seed, metrics=_metrics(1 / (seed + 3))) for seed in range(3)]
    (row,) = comparison(records)
    (read,) = csv.DictReader(io.StringIO(csv_text([row])))
    assert float(read["integer"]) == pytest.approx(row.stages["integer"].mean, rel=1e-8)
    assert float(read["integer_half_95"]) == pytest.approx(row.stages["integer"].half, rel=1e-8)
    assert read["method"] == "oaq"
    assert int(read["images_affected"]) == row.images_affected


def test_csv_has_the_mean_cost_of_the_records_that_have_one(make_record) -> None:
    records = [make_record(4, seed=seed) for seed in range(3)]
    records[0].cost = None
    records[1].cost.density = 0.25
    (read,) = csv.DictReader(io.StringIO(csv_text(comparison(records))))
    assert (read["macs"], read["bops"], read["density"]) == ("100000000", "6.4e+09", "0.5")
    for record in records:
        record.cost = None
    (read,) = csv.DictReader(io.StringIO(csv_text(comparison(records))))
    assert read["macs"] == ""


def test_times_are_relative_to_mode_fast(make_record) -> None:
    first, second = make_record(4), make_record(4, seed=1)
    first.latency_ms = {"fast": 10.0, "certified": 12.0}
    second.latency_ms = {"fast": 20.0, "certified": 28.0}
    (row,) = comparison([first, second])
    assert row.ratios["certified"].mean == pytest.approx(1.3)
    assert _row(markdown([row]), row.hash)[-3:-1] == ["1.30", "-"]


def test_operand_bits_are_a_column(make_record, make_config) -> None:
    config = make_config(quantization={"weight_bits": 6, "activation_bits": 7})
    (row,) = comparison([make_record(4, config=config)])
    assert _row(markdown([row]), row.hash)[5] == "7/6"


def test_latex_is_a_tabular_with_special_characters_escaped(make_record, make_config) -> None:
    records = [make_record(4, seed=seed, config=make_config(method={"kind": "a_b"})) for seed in range(2)]
    text = comparison_grid(comparison(records)).latex()
    (body,) = [line for line in text.splitlines() if "a\\_b" in line]
    assert body.count(" & ") == len(comparison_grid([]).heads) - 1 and body.endswith(r"\\")
    assert r"$\pm$" in body and "±" not in body
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    assert lines[0].startswith(r"\begin{tabular}{l") and lines[1] == r"\toprule" and lines[-1] == r"\end{tabular}"


def test_no_records() -> None:
    assert "No finished run yet" in markdown([])


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("method", {"kind": "oaq", "lr": 0.1}, "oaq"),
        ("model", {"lr": 0.1}, "-"),
        ("accumulator", {"bits": 16, "overflow": "wrap", "lanes": 8}, "int16_lanes8"),
        ("accumulator", "int32", "int32"),
        ("accumulator", {"bits": "many"}, "{'bits': 'many'}"),
        ("task", "detection", "detection"),
        ("task", {}, "-"),
        ("task", None, "-"),
    ],
)
def test_labels(section: str, value: object, expected: str) -> None:
    assert label({section: value}, section) == expected


def test_labels_are_the_chosen_config_files() -> None:
    config = {
        "choices": {"method": "int8_settle", "accumulator": "int16", "model": "mobilenetv1"},
        "method": {"kind": "int8"},
        "accumulator": {"bits": 14},
    }
    assert [label(config, section) for section in ("method", "accumulator", "model")] == ["int8_settle", "int14", "-"]


@pytest.mark.parametrize(
    ("granularity", "split", "expected"),
    [
        ("channel", "output_error", "oaq"), ("tensor", "even", "oaq (tensor, even)"), ("channel", 0.7, "oaq (0.7)"),
        ("tensor", "output_error", "oaq (tensor)"), (None, None, "oaq"),
    ],
)  # fmt: skip
def test_labels_say_what_is_not_usual_of_range_factors(granularity: Any, split: Any, expected: str) -> None:
    method = {"kind": "oaq", "settle": {"split": split}}
    assert label({"method": method, "quantization": {"granularity": granularity}}, "method") == expected


def test_labels_say_what_takes_the_place_of_labels_and_of_training() -> None:
    method = {"kind": "int8", "fine_tune": True, "bias_correction": False}
    taught = {"task": {"teacher": "float"}, "method": method}
    assert label(taught, "method") == "int8 (teacher)"
    settled = {"kind": "oaq", "decrease_until": 0.0, "settle": {"before_training": True, "split": "output_error"}}
    assert label({"method": settled}, "method") == "oaq (settled first, decrease until 0)"
    usual = {"kind": "oaq", "decrease_until": 0.8, "settle": {"before_training": False, "split": "output_error"}}
    assert label({"method": usual}, "method") == "oaq"
    assert label(taught | {"method": {"kind": "float32", "fine_tune": True}}, "method") == "float32"
    assert label(taught | {"method": {"kind": "axe"}}, "method") == "axe"
    assert label({"method": {"kind": "certified_scale", "share": 0.0}}, "method") == "certified_scale (0.0)"
    assert label(taught | {"method": method | {"fine_tune": False, "bias_correction": True}}, "method") == (
        "int8 (bias correction)"
    )


def test_labels_say_how_sums_become_codes_where_that_is_not_the_usual_way() -> None:
    for value, expected in (("float32", "int8"), ("dyadic", "int8 (dyadic)"), ("fixed16", "int8 (fixed16)")):
        assert label({"method": {"kind": "int8"}, "quantization": {"requantization": value}}, "method") == expected
