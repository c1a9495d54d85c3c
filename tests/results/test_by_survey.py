import csv
import io

import pytest
from composing import settings_of

from oaq_repro.results.by_survey import survey_figures, survey_files
from oaq_repro.results.labels import label
from oaq_repro.results.summary import interval
from oaq_repro.settings.schema import read

RUNS = {  # by overrides: simulated by seed
    "method=ptq_int8 quantization.weight_bits=4": [0.90, 0.92, 0.91],
    "method=codebook method.codebook=apot": [0.93, 0.94, 0.95],
    "method=group_scale quantization.weight_bits=3": [0.80, 0.82, 0.84],
    "method=ptq_int8 quantization.activation_bits=4": [0.85, 0.86, 0.87],
    "method=ptq_int8 quantization.activation_bits=4 quantization.observer.kind=dynamic": [0.86, 0.88, 0.87],
    "method=ptq_int8 quantization.activation_bits=4 quantization.calibration.source=gaussian": [0.80, 0.79, 0.81],
    "method=int8 quantization.weight_bits=4": [0.95, 0.95, 0.96],
    "method=int8_stochastic quantization.weight_bits=4": [0.94, 0.95, 0.96],
}  # fmt: skip


def config_of(overrides):
    config = read(settings_of(*overrides.split())).model_dump(mode="json")
    return config | {"choices": {"method": overrides.split()[0].partition("=")[2]}}


@pytest.fixture(scope="module")
def configs():
    return {overrides: config_of(overrides) for overrides in RUNS}


@pytest.fixture
def records(make_record, configs):
    made = []
    for number, (overrides, values) in enumerate(RUNS.items()):
        for seed, value in enumerate(values):
            metrics = {"float": {"top1": 0.96}, "simulated": {"top1": value}}
            if "dynamic" not in overrides:
                metrics |= {"integer_int32": {"top1": value}, "integer": {"top1": value - 0.01}}
            made.append(make_record(3, seed=seed, hash=f"{number:016x}", config=configs[overrides], metrics=metrics))
    return made


def rows_of(records):
    (text,) = (text for name, text in survey_files(records).items() if name.endswith(".md"))
    lines = [[cell.strip("| ") for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return text, {(row[0], row[1]): dict(zip(lines[0], row, strict=True)) for row in lines[2:]}


def test_rows_stand_beside_the_control_of_their_bits_and_training(records):
    text, rows = rows_of(records)
    assert "Float: 96.00 ± 0.00 %" in text
    assert set(rows) == {
        ("ptq_int8", "8/4"), ("codebook (apot)", "8/4"), ("group_scale (groups of 16)", "8/3"), ("ptq_int8", "4/8"),
        ("ptq_int8 (dynamic ranges)", "4/8"), ("ptq_int8 (gaussian noise)", "4/8"), ("int8", "8/4"),
        ("int8_stochastic", "8/4"),
    }  # fmt: skip
    half = interval([0.03, 0.02, 0.04]).half
    assert rows["codebook (apot)", "8/4"]["over control"] == f"+3.00 ± {100 * half:.2f}"
    assert rows["ptq_int8 (gaussian noise)", "4/8"]["over control"].startswith("-6.00")
    assert rows["int8_stochastic", "8/4"]["over control"].startswith("-0.33")
    assert rows["group_scale (groups of 16)", "8/3"]["over control"] == "-"  # nobody ran its control
    assert rows["ptq_int8", "8/4"]["over control"] == "-"
    assert rows["ptq_int8 (dynamic ranges)", "4/8"]["integer"] == "simulated only"


def test_the_csv_has_the_same_numbers(records):
    (text,) = (text for name, text in survey_files(records).items() if name.endswith(".csv"))
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(text)) if row["operand_bits"] == "8/4"}
    assert float(rows["codebook (apot)"]["over_control"]) == pytest.approx(0.03)
    assert rows["ptq_int8"]["over_control"] == ""


def test_the_figure_shows_all_rows(records):
    (plot,) = survey_figures(records)
    assert len(plot.rows) == len(RUNS) and len(plot.figure.axes) == 2
    assert plot.files()


def test_a_table_of_one_row_at_the_usual_bits_has_a_figure(make_record):
    config = config_of("method=ptq_int8 quantization.observer.symmetric=true")
    record = make_record(3, config=config, metrics={"float": {"top1": 0.9}, "simulated": {"top1": 0.9}})
    (plot,) = survey_figures([record])
    assert [row[1] for row in plot.rows] == ["8/8"] and plot.files()


def test_runs_without_an_axis_of_the_survey_make_no_table(make_record, configs):
    plain = make_record(3, config=configs["method=int8 quantization.weight_bits=4"])
    assert survey_files([make_record(3), plain]) == {} and survey_figures([plain]) == []


def test_labels_say_what_is_not_the_usual():
    def named(*overrides):
        return label(config_of(" ".join(overrides)), "method")

    assert named("method=ptq_int8") == "ptq_int8"
    ranges = "quantization.observer.kind=percentile", "quantization.observer.percentile=99.9"
    assert named("method=ptq_int8", *ranges) == "ptq_int8 (percentile 99.9)"
    assert named("method=oaq", "quantization.observer.symmetric=true") == "oaq (symmetric)"
    few = "quantization.calibration_batches=1"
    assert named("method=ptq_int8", few) == "ptq_int8 (calibration batches: 1)"
    made = "quantization.calibration.source=distilled"
    assert named("method=codebook", made) == "codebook (kmeans, distilled images)"
