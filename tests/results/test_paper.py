from pathlib import Path

import pytest
import yaml
from composing import composed, read_of
from omegaconf import OmegaConf

from oaq_repro.errors import InputError
from oaq_repro.results.labels import label
from oaq_repro.results.paper import GROUPS, load_table, load_tables
from oaq_repro.results.paper_tables import answers, paper_files, verdict
from oaq_repro.results.record import Record
from oaq_repro.results.summary import Interval
from oaq_repro.settings.composing import config_folder
from oaq_repro.settings.identity import science
from oaq_repro.settings.kinds import KINDS

RESULTS = Path(__file__).parents[2] / "results"
IMAGES = 50_000
RUN = ["method=oaq", "model.width=1.0"]


COST = {
    "kind": "cost", "metric": ..., "data": ..., "dataset": ..., "images": ..., "blocked": ..., "tolerance": 3.0,
    "network": "resnet18", "bits": {"a": 4},
    "cells": [{"row": "a", "column": "MB", "value": 7.0, "status": "published"}],
}  # fmt: skip


def table_text(**changes: object) -> str:
    fields: dict[str, object] = {
        "title": "Made up", "source": "nowhere", "kind": "accuracy", "metric": "top1", "data": "imagenet",
        "dataset": "ImageNet", "images": IMAGES, "tolerance": 0.1, "blocked": "no images",
        "cells": [
            {"row": "OAQ", "column": "top-1", "value": 70.87, "status": "second-hand", "run": RUN, "preset": "a"},
            {"row": "X", "column": "top-1", "value": None, "reason": "unknown", "run": ["method=int8"], "preset": "b"},
        ],
    }  # fmt: skip
    return yaml.safe_dump({k: v for k, v in (fields | changes).items() if v is not ...})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "made_up.yaml"
    path.write_text(table_text())
    return load_table(path)


def on_imagenet(make_record, make_config, seed=0, top1=0.7080, **changes) -> Record:
    config = make_config(
        data={"subset": None, "val_subset": None}, model={"width": 1}, method={"kind": "oaq"}, seed=seed, **changes
    )
    stages = ("float", "simulated", "integer_int32", "integer")
    record = make_record(4, seed=seed, config=config, metrics={stage: {"top1": top1} for stage in stages})
    record.provenance.dataset = "ImageNet"
    record.overflow.images = IMAGES
    return record


def test_the_committed_tables_are_valid_and_say_second_hand() -> None:
    tables = load_tables(RESULTS)
    assert [table.name for table in tables] == sorted(path.stem for path in (RESULTS / "paper").glob("*.yaml"))
    status = {table.name: {cell.status for cell in table.cells if cell.value is not None} for table in tables}
    for name, found in status.items():
        assert found <= ({"published"} if name.startswith(("hawq_", "pmf_")) else {"second-hand"})
    known = {cell.row: cell.value for table in tables if table.name == "imagenet_mobilenetv1" for cell in table.cells}
    assert known == {"OAQ": 70.87, "PACT, 6 bits": 70.46, "RQ, 6 bits": 68.02, "TF-Lite QAT, 8 bits": 70.10}
    pmf = {f"{t.data} {cell.row}": cell.value for t in tables if t.name.startswith("pmf_") for cell in t.cells}
    assert pmf == {
        "cifar10 VGG-16": 91.40,
        "cifar10 ResNet-18": 93.24,
        "cifar100 VGG-16": 64.71,
        "cifar100 ResNet-18": 71.56,
        "tiny_imagenet ResNet-18": 51.52,
    }


@pytest.mark.parametrize("table", [t for t in load_tables(RESULTS) if t.kind == "accuracy"], ids=lambda t: t.name)
def test_overrides_of_the_committed_tables_compose_and_hold(table) -> None:
    for cell in table.cells:
        config = composed(*cell.run)
        assert KINDS["data"][config.data.kind].target.rpartition(":")[2] == table.dataset
        for override in cell.run:
            key, _, value = override.partition("=")
            if key not in GROUPS:
                assert yaml.safe_load(value) == OmegaConf.select(config, key)
            elif key == "accumulator":
                assert label({"accumulator": dict(config.accumulator)}, key) == value


def test_every_preset_makes_the_runs_of_its_cells() -> None:
    cells = [cell for table in load_tables(RESULTS) for cell in table.cells if cell.run]
    presets = sorted(path.stem for path in (config_folder() / "experiment" / "paper").glob("*.yaml"))
    assert sorted({cell.preset for cell in cells}) == presets
    made = [science(read_of(f"+experiment=paper/{cell.preset}", *cell.overrides)) for cell in cells]
    assert made == [science(read_of(*cell.run)) for cell in cells]
    assert all(made.count(found) == 1 for found in made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "guess"}, "field kind: found 'guess', expected 'accuracy', 'latency', 'speedup' or 'cost'"),
        ({"colour": 1}, "field colour: Extra inputs are not permitted"),
        ({"images": ...}, "images is None with kind accuracy, expected a value"),
        ({"kind": "speedup"}, "with kind speedup, expected none"),
        ({"cells": [{"row": "a", "column": "b", "value": 1.0}]}, "expected a value with its status"),
        ({"cells": [{"row": "a", "column": "b", "value": None}]}, "value: null with its reason"),
        (
            {
                "cells": [
                    {"row": "a", "column": "b", "value": 700.0, "status": "published", "run": ["x=1"], "preset": "a"}
                ]
            },
            "value 700.0, expected percent",
        ),
        ({"cells": [{"row": "a", "column": "b", "value": 7.0, "status": "published"}]}, "no run, expected one, or why"),
        (
            {"cells": [{"row": "a", "column": "b", "value": 7.0, "status": "published", "run": ["oaq"]}]},
            "expected overrides such as",
        ),
        (
            {"cells": [{"row": "a", "column": "b", "value": 7.0, "status": "published", "run": ["x=1"]}]},
            "preset is None with run ['x=1'], expected both or none of them",
        ),
        (
            {"cells": 2 * [{"row": "a", "column": "b", "value": None, "reason": "?", "run": ["x=1"], "preset": "a"}]},
            "twice",
        ),
        (
            {"cells": [{"row": "a", "column": "b", "value": None, "reason": "?", "overrides": ["x=1"]}]},
            "overrides is ['x=1'] without a preset",
        ),
        ({"bits": {"a": 4}}, "bits is {'a': 4} with kind accuracy, expected none"),
        ({**COST, "bits": {"b": 8}}, "cell 'a', 'MB': expected a row of bits, and one of MB, GBOPs"),
        ({**COST, "bits": {"a": 33}}, "field bits.a"),
        ({**COST, "network": ...}, "network is None with kind cost, expected a value"),
    ],
)
def test_bad_tables(tmp_path, changes, message) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(table_text(**changes))
    with pytest.raises(InputError) as error:
        load_table(path)
    assert str(path) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("text", ["[1]", "a: [", ""])
def test_files_that_are_no_tables(tmp_path, text) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match="bad.yaml"):
        load_table(path)


def test_only_whole_runs_on_the_papers_data_answer(make_record, make_config, table) -> None:
    cell = table.cells[0]
    good = on_imagenet(make_record, make_config)
    assert answers(good, table, cell)
    assert not answers(make_record(4), table, cell)
    others = [on_imagenet(make_record, make_config) for _ in range(6)]
    others[0].provenance.dataset = "Digits"
    others[1].overflow.images = 100
    others[2].config["data"]["val_subset"] = 100
    others[3].config["method"] = {"kind": "int8"}
    others[4].config["model"] = {"width": 0.5}
    others[5] = others[5].model_copy(update={"overflow": None})
    assert not any(answers(other, table, cell) for other in others)


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (0.7087, None, "match"),
        (0.7097, None, "match"),
        (0.7098, None, "differs"),
        (0.7050, 0.0038, "within noise"),
        (0.7050, 0.0036, "differs"),
    ],
)
def test_verdicts(table, mean, half, expected) -> None:
    assert verdict(table, table.cells[0], Interval(mean, half, 1 if half is None else 3)) == expected


def test_verdicts_without_numbers(table) -> None:
    assert verdict(table, table.cells[0], None) == "cannot run: data"
    assert verdict(table.model_copy(update={"blocked": None}), table.cells[0], None) == "not run"
    assert verdict(table, table.cells[1], Interval(0.7, None, 1)) == "-"


def test_a_run_stands_beside_the_papers_number(make_record, make_config, table) -> None:
    records = [on_imagenet(make_record, make_config, seed, top1) for seed, top1 in enumerate((0.70, 0.71, 0.72))]
    embedded = make_record(4, hash="f" * 16, config=make_config(model={"width": 1}))
    files = paper_files([table], [*records, embedded])
    assert set(files) == {f"paper_made_up.{suffix}" for suffix in ("md", "csv", "tex")}
    (line,) = [line for line in files["paper_made_up.md"].splitlines() if line.startswith("| OAQ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:8] == ["70.87", "second-hand", "71.00 ± 2.48", "3", "+0.13", "within noise"]
    assert "f" * 8 not in files["paper_made_up.md"]
    assert "cannot run: data" in files["paper_made_up.md"] and "Empty cells: unknown" in files["paper_made_up.md"]


def test_every_experiment_has_its_own_line(make_record, make_config, table) -> None:
    one = on_imagenet(make_record, make_config)
    other = on_imagenet(make_record, make_config).model_copy(update={"hash": "a" * 16})
    lines = paper_files([table], [one, other])["paper_made_up.csv"].splitlines()
    assert [line.rpartition(",")[2] for line in lines if line.startswith("OAQ")] == [one.hash, other.hash]


def test_the_committed_tables_without_a_run() -> None:
    tables = [table for table in load_tables(RESULTS) if table.kind != "cost"]
    files = paper_files(tables, [])
    for name, text in files.items():
        if name.endswith(".md"):
            rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
            assert rows and all("not run" in row or "cannot run: data" in row for row in rows)
    assert "| Xiaomi 9SE, ARMv7 | INT8 | 155.80 | 1.63 | second-hand |" in files["paper_mnn_resnet18.md"]


def test_a_cost_stands_beside_the_papers_number(tmp_path) -> None:
    path = tmp_path / "cost.yaml"
    cells = [
        {"row": "a", "column": column, "value": value, "status": "published"}
        for column, value in (("MB", 7.1), ("GBOPs", 50.0))
    ]
    path.write_text(table_text(**COST | {"cells": cells}))
    files = paper_files([load_table(path)], [], {"cost": {("a", "MB"): 7.14, ("a", "GBOPs"): 52.0}})
    rows = [line for line in files["paper_cost.md"].splitlines() if line.startswith("| a")]
    assert rows[0] == "| a | MB | 7.1 | published | 7.1 | +0.6 % | match |"
    assert rows[1] == "| a | GBOPs | 50 | published | 52.0 | +4.0 % | differs |"
    assert files["paper_cost.csv"].splitlines()[1] == "a,MB,cost,7.1,published,,7.14,match"
