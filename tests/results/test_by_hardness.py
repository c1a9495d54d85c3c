import csv
import io

import pytest
from composing import settings_of

from oaq_repro.results.by_hardness import hardness_files
from oaq_repro.results.labels import label
from oaq_repro.results.summary import interval
from oaq_repro.settings.schema import read

WEIGHTS = read(settings_of("method=pmf")).model_dump(mode="json")["method"]["weights"]
RUNS = {  # by what is not the usual: soft, hard and integer by seed
    (): [(0.95, 0.94, 0.93), (0.93, 0.93, 0.93), (0.94, 0.92, 0.93)],
    (("beta_max", 7.0),): [(0.95, 0.30, 0.31), (0.96, 0.40, 0.41), (0.94, 0.35, 0.33)],
    (("projection", "argmax"),): [(0.91, 0.91, 0.91), (0.92, 0.92, 0.92), (0.93, 0.93, 0.90)],
}


@pytest.fixture
def records(make_record, make_config):
    made = []
    for number, (fields, values) in enumerate(RUNS.items()):
        method = {"kind": "pmf", "weights": WEIGHTS | dict(fields)}
        for seed, found in enumerate(values):
            metrics = {"float": {"top1": 0.96}}
            metrics |= {stage: {"top1": v} for stage, v in zip(("soft", "hard", "integer"), found, strict=True)}
            config = make_config(method=method)
            made.append(make_record(3, seed=seed, hash=f"{number:016x}", config=config, metrics=metrics))
    return made


def rows_of(records):
    (text,) = (text for name, text in hardness_files(records).items() if name.endswith(".md"))
    lines = [[cell.strip("| ") for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return text, [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_soft_and_hard_stand_beside_each_other_with_paired_differences(records):
    text, rows = rows_of(records)
    assert "Float: 96.00 ± 0.00 %" in text
    assert [row["method"] for row in rows] == ["pmf", "pmf (argmax)", "pmf (beta to 7)"]
    plain, hard_all_along, stopped = rows
    assert plain["soft"].startswith("94.00 ± ") and plain["hard"].startswith("93.00 ± ")
    half = interval([-0.01, 0.0, -0.02]).half
    assert plain["hard - soft"] == f"-1.00 ± {100 * half:.2f}"  # of the differences, not of the means
    assert stopped["hard - soft"].startswith("-60.00 ± ")
    assert plain["over argmax"].startswith("+1.00 ± ") and hard_all_along["over argmax"] == "-"
    assert plain["integer - hard"].startswith("+0.00 ± ")


def test_the_csv_has_the_same_numbers(records):
    (text,) = (text for name, text in hardness_files(records).items() if name.endswith(".csv"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["hard"]) for row in rows] == pytest.approx([0.93, 0.92, 0.35])
    assert [row["over_argmax"] for row in rows] == [rows[0]["over_argmax"], "", rows[2]["over_argmax"]]
    assert float(rows[2]["over_argmax"]) == pytest.approx(-0.57)


def test_runs_without_the_stage_make_no_table(make_record):
    assert hardness_files([make_record(3)]) == {}


def test_a_row_of_one_seed_has_no_interval(records):
    _, rows = rows_of([record for record in records if record.seed == 0])
    assert rows[0]["hard - soft"] == "-1.00" and rows[0]["seeds"] == "1"


def test_labels_say_what_is_not_the_usual():
    def named(**fields):
        return label({"method": {"kind": "pmf", "weights": WEIGHTS | fields}}, "method")

    assert named() == "pmf"
    assert named(levels=3, gradient="reference") == "pmf (ternary, reference gradient)"
    assert named(projection="sparsemax", beta_max=1.0) == "pmf (sparsemax, beta to 1)"
    assert named(projection="argmax", beta_max=1.0) == "pmf (argmax)"  # which has no beta
