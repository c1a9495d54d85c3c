"""The table and the figures of pruning, from made-up records."""

import csv
import io

import pytest
from composing import settings_of

from oaq_repro.results.by_density import density_files
from oaq_repro.results.by_hardness import hardness_files
from oaq_repro.results.density_figures import density_plots
from oaq_repro.results.labels import label, operand_bits
from oaq_repro.results.sections import Pruning
from oaq_repro.results.summary import interval
from oaq_repro.settings.schema import read

RUNS = {  # kind, step, ranking: accuracy by seed
    ("int8", 0, "magnitude"): (0.94, 0.93, 0.95),
    ("int8", 1, "magnitude"): (0.93, 0.93, 0.93),
    ("int8", 1, "random"): (0.80, 0.82, 0.81),
    ("float32", 0, "magnitude"): (0.95, 0.95, 0.95),
    ("float32", 1, "magnitude"): (0.90, 0.91, 0.89),
}


@pytest.fixture
def records(make_record):
    made = []
    for number, ((kind, step, ranking), values) in enumerate(RUNS.items()):
        overrides = [f"method.kind={kind}", f"method.pruning.step={step}", f"method.pruning.ranking={ranking}"]
        config = read(settings_of("method=qap", "method.pruning.densities=[0.2]", *overrides)).model_dump(mode="json")
        config["choices"] = {"method": "qap", "data": "digits_table", "model": "mlp_digits"}
        for seed, value in enumerate(values):
            found = {"top1": value, "auc": 0.9}
            stages = ("soft", "hard") if kind == "float32" else ("soft", "hard", "integer")
            metrics = {"float": {"top1": 0.96, "auc": 0.99}} | dict.fromkeys(stages, found)
            layers = 0 if kind == "float32" else 2
            record = make_record(max(layers, 1), seed=seed, hash=f"{number:016x}", config=config, metrics=metrics)
            pruning = Pruning(
                step=step, density=0.2 if step else 1.0, weights=100, left=20, efficiency={"a": 0.2, "b": 0.8}
            )
            cost = record.cost.model_copy(update={"bops_qap_reference": 1000.0 * (1 + number)})
            rows = [
                layer.model_copy(update={"depth": 64, "longest_block": 16 * (1 + i), "worst_case": 0.5 + i})
                for i, layer in enumerate(record.layers[:layers])
            ]
            own = {"pruning": pruning, "cost": cost, "layers": rows, "overflow": None}
            made.append(record.model_copy(update=own))
    return made


def rows_of(records):
    (text,) = (text for name, text in density_files(records).items() if name.endswith(".md"))
    lines = [[cell.strip("| ") for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("|")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return text, {(row["after"], row["density"], row["pruned by"]): row for row in rows}


def test_rows_have_differences_to_the_dense_network_and_to_random_pruning(records):
    text, rows = rows_of(records)
    assert "Float: 96.00 ± 0.00 %" in text and len(rows) == 5
    own = rows["int8", "0.2", "magnitude"]
    assert own["accuracy"] == "93.00 ± 0.00" and own["a/w bits"] == "6/6"
    half = 100 * interval([-0.01, 0.0, -0.02]).half
    assert own["- dense"] == f"-1.00 ± {half:.2f}"
    half = 100 * interval([0.13, 0.11, 0.12]).half
    assert own["- random"] == f"+12.00 ± {half:.2f}"
    dense, random = rows["int8", "1", "-"], rows["int8", "0.2", "random"]
    assert (dense["- dense"], dense["- random"], random["- random"]) == ("-", "-", "-")
    assert random["- dense"].startswith("-13.00")
    alone = rows["float32", "0.2", "magnitude"]
    assert alone["a/w bits"] == "32/32" and alone["accuracy"].startswith("90.00")  # as it is trained
    assert alone["- dense"].startswith("-5.00") and alone["- random"] == "-" and alone["blocks"] == "-"


def test_efficiency_blocks_and_costs_by_hand(records):
    _, rows = rows_of(records)
    row = rows["int8", "0.2", "magnitude"]
    assert row["eta"] == "0.400"  # sqrt(0.2 * 0.8)
    assert row["AIQ"] == f"{(0.9**2 * 0.4) ** (1 / 3):.3f}" and row["AUC"] == "0.9000"
    assert row["blocks"] == "0.38"  # (16 + 32) / 2 of 64
    assert row["BOPs as coded"] == "2,000" and row["BOPs, real input"] == "6,500,000,000"


def test_the_csv_has_the_same_numbers(records):
    (text,) = (text for name, text in density_files(records).items() if name.endswith(".csv"))
    rows = {(r["after"], r["density"], r["ranking"]): r for r in csv.DictReader(io.StringIO(text))}
    row = rows["int8", "0.2", "magnitude"]
    assert float(row["minus_random"]) == pytest.approx(0.12) and float(row["eta"]) == pytest.approx(0.4)
    assert rows["float32", "1", "magnitude"]["minus_dense"] == ""


def test_figures_have_all_series_and_their_numbers(records):
    accuracy, blocks = density_plots(records)
    assert accuracy.name.startswith("pruning_accuracy-digits_table-mlp_digits-")
    series = {row[0]: [r[1] for r in accuracy.rows if r[0] == row[0]] for row in accuracy.rows}
    assert series == {
        "6/6 bits, int8": [1.0, 0.2],
        "6/6 bits, int8, random": [1.0, 0.2],  # from the dense network, too
        "32/32 bits, float32": [1.0, 0.2],
    }
    assert {row[0] for row in blocks.rows} == {"6/6 bits, int8"}
    by_density = {row[1]: row for row in blocks.rows}
    assert by_density[0.2][2:4] == [0.375, 1.5]  # blocks, and the worst layer
    for plot in (accuracy, blocks):
        assert {name.rpartition(".")[2] for name in plot.files()} == {"csv", "svg", "png"}


def test_series_with_overflow_are_left_out_of_the_figure_of_accuracy(make_record, records):
    seen = make_record(22).overflow
    assert seen.evaluation_events
    broken = [r.model_copy(update={"overflow": seen}) if i == 3 else r for i, r in enumerate(records)]
    accuracy, blocks = density_plots(broken)
    assert {row[0] for row in accuracy.rows} == {"32/32 bits, float32"} and blocks.rows


def test_what_was_not_pruned_makes_no_table_and_pruned_networks_no_table_of_hardening(make_record, records):
    assert density_files([make_record(3)]) == {} and density_plots([make_record(3)]) == []
    assert hardness_files(records) == {}


def test_labels_say_what_is_left():
    def named(*overrides):
        config = read(settings_of("method=qap", *overrides)).model_dump(mode="json")
        return label(config | {"choices": {"method": "qap"}}, "method")

    assert named() == "qap (dense)"
    assert named("method.pruning.step=8") == "qap (density 0.2)"
    assert named(
        "method.pruning.step=1", "method.kind=lsq", "method.pruning.ranking=random", "method.pruning.l1=0"
    ) == ("qap (lsq, density 0.9, random, L1 0)")
    assert named("method.pruning.step=1", "method.pruning.rewind=start") == "qap (density 0.9, rewound)"
    assert (
        operand_bits({"method": {"kind": "float32"}, "quantization": {"weight_bits": 6, "activation_bits": 6}})
        == "32/32"
    )
