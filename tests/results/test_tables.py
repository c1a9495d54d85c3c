import csv
import importlib.util
import io
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oaq_repro.results.labels import label
from oaq_repro.results.record import save_record
from oaq_repro.results.store import run_folder
from oaq_repro.results.tables import comparison, csv_text, interval, markdown

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tables.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tables", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert cells[:7] == ["classification", "CIFAR10", "mobilenet", "oaq", "int16", "top1", "3"]
    assert cells[7:9] == ["75.00 ± 0.00", "70.00 ± 0.00"]
    assert cells[10] == f"71.33 ± {100 * (high - low) / 2:.2f}"


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
    assert _row(cells, record.hash)[7:11] == ["40.00", "-", "-", "30.00"]


def test_tables_are_deterministic(make_record, make_config) -> None:
    records = [
        make_record(4, seed=seed, hash=digit * 16, config=make_config(method={"name": method}), metrics=_metrics(value))
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


def test_csv_keeps_every_digit(make_record) -> None:
    records = [make_record(4, seed=seed, metrics=_metrics(1 / (seed + 3))) for seed in range(3)]
    (row,) = comparison(records)
    (read,) = csv.DictReader(io.StringIO(csv_text([row])))
    assert float(read["integer"]) == row.stages["integer"].mean
    assert float(read["integer_half_95"]) == row.stages["integer"].half
    assert read["method"] == "oaq"
    assert int(read["images_affected"]) == row.images_affected


def test_no_records() -> None:
    assert "No finished run yet" in markdown([])


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("method", {"name": "oaq", "_target_": "a.b.C"}, "oaq"),
        ("data", {"_target_": "oaq_repro.data.voc.VOC"}, "VOC"),
        ("model", {"_target_": "oaq_repro.models.ssdlite.build"}, "ssdlite"),
        ("accumulator", {"_target_": "a.Accumulator", "bits": 16, "overflow": "wrap", "lanes": 8}, "int16_lanes8"),
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
        "method": {"_target_": "oaq_repro.methods.int8.Int8"},
        "accumulator": {"bits": 14},
    }
    assert [label(config, section) for section in ("method", "accumulator", "model")] == ["int8_settle", "int14", "-"]


def _fill(results: Path, make_record, count: int, layers: int = 4) -> None:
    for i in range(count):
        hash, seed = f"{i // 5:016x}", i % 5
        save_record(make_record(layers, seed=seed, hash=hash), run_folder(results, hash, seed) / "record.json")


def test_script_writes_both_tables_twice_the_same(make_record, script: ModuleType, tmp_path: Path, capsys) -> None:
    _fill(tmp_path, make_record, 6)
    assert script.main(["--results", str(tmp_path)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["comparison.md", "comparison.csv"]
    assert script.main(["--results", str(tmp_path), "--out", str(tmp_path / "again")]) == 0
    for path in paths:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_script_lists_bad_records_after_writing_the_rest(
    make_record, script: ModuleType, tmp_path: Path, capsys
) -> None:
    _fill(tmp_path, make_record, 2)
    bad = run_folder(tmp_path, "e" * 16, 0) / "record.json"
    bad.parent.mkdir(parents=True)
    bad.write_text("nonsense")
    assert script.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert str(bad) in capsys.readouterr().err
    assert "mobilenet" in (tmp_path / "out" / "comparison.md").read_text()


def test_script_without_results(script: ModuleType, tmp_path: Path, capsys) -> None:
    assert script.main(["--results", str(tmp_path / "absent")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_hundred_records_take_less_than_three_seconds(make_record, tmp_path: Path) -> None:
    _fill(tmp_path, make_record, 5, layers=60)
    for i in range(1, 20):
        for seed in range(5):
            folder = run_folder(tmp_path, f"{i:016x}", seed)
            shutil.copytree(run_folder(tmp_path, "0" * 16, seed), folder)
            path = folder / "record.json"
            path.write_text(path.read_text().replace("0" * 16, f"{i:016x}", 1))
    start = time.perf_counter()
    command = [sys.executable, str(SCRIPT), "--results", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    took = time.perf_counter() - start
    assert result.returncode == 0, result.stderr
    assert took < 3
    assert len((tmp_path / "tables" / "comparison.csv").read_text().splitlines()) == 21
