import csv
import io
import statistics

import pytest
from composing import settings_of

from oaq_repro.results.by_assignment import assignment_files
from oaq_repro.results.labels import label
from oaq_repro.results.sections import BitAssignment
from oaq_repro.results.sweep import sweeps
from oaq_repro.settings.schema import read

BEST, WORST = (0.90, 0.80, 0.88), (0.2, 0.3, 0.1)
DRAWS = {0: (0.5, 0.6, 0.4), 1: (0.7, 0.4, 0.8), 2: (0.55, 0.7, 0.6)}
SENSITIVITIES = (3.0, 2.0, 1.0)  # of the draws, the same for all seeds
FOUND = BitAssignment(unit="bit operations", sensitivity=0.5, cost=7.0, bound=8.0, table=None, layers=[])
SEARCH = read(settings_of("method=hawq", "method.search.widths=[2,4]")).model_dump(mode="json")["method"]["search"]


@pytest.fixture
def records(make_record, make_config):
    """Fine-tuned runs of three seeds, at fraction 0.5 with controls, and the two ends."""
    made = []
    variants = [({"choice": "best"}, BEST), ({"choice": "most"}, WORST)]
    variants += [({"choice": "random", "draw": draw}, values) for draw, values in DRAWS.items()]
    variants += [({"choice": "random", "fraction": end}, (value,) * 3) for end, value in ((0.0, 0.05), (1.0, 0.95))]
    for i, (fields, values) in enumerate(variants):
        for seed, value in enumerate(values):
            method = {"kind": "int8", "fine_tune": True, "search": SEARCH | fields}
            metrics = {stage: {"top1": value if stage == "integer" else 0.97} for stage in ("float", "integer")}
            record = make_record(3, seed=seed, hash=f"{i:016x}", config=make_config(method=method), metrics=metrics)
            sensitivity = SENSITIVITIES[fields.get("draw", 0)]
            found = FOUND.model_copy(update={"sensitivity": sensitivity})
            made.append(record.model_copy(update={"assignment": found}))
    return made


def rows_of(records):
    (text,) = (text for name, text in assignment_files(records).items() if name.endswith(".md"))
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    return text, [[cell.strip("| ") for cell in line] for line in (lines[0], *lines[2:])]


def test_the_searched_bits_stand_beside_their_controls(records):
    text, (heads, row) = rows_of(records)
    found = dict(zip(heads, row, strict=True))
    assert (found["training"], found["bits"], found["bound"], found["seeds"]) == ("fine-tuned", "2/4", "bops 0.5", "3")
    assert found["searched"].startswith("86.00 ± ") and found["most sensitive"].startswith("20.00 ± ")
    assert (found["all at fewest"], found["all at most"]) == ("5.00 ± 0.00", "95.00 ± 0.00")
    assert found["random"].startswith("58.33 ± ") and found["random"].endswith("[40.0 to 80.0]")
    assert "Float: 97.00 ± 0.00 %" in text


def test_the_difference_is_paired_with_the_seeds_own_draws(records):
    differences = [best - sum(draw[i] for draw in DRAWS.values()) / 3 for i, best in enumerate(BEST)]
    half = 4.302653 * statistics.stdev(differences) / 3**0.5  # t, 2 degrees of freedom
    _, (heads, row) = rows_of(records)
    found = dict(zip(heads, row, strict=True))
    assert found["searched - random"] == f"{100 * statistics.fmean(differences):+.2f} ± {100 * half:.2f}"
    assert found["verdict"] == "above random"


def test_sensitivity_and_accuracy_are_compared_by_rank(records):
    """Ranks of the accuracies 0.5 0.7 0.55, 0.6 0.4 0.7 and 0.4 0.8 0.6 at falling sensitivities, by 1 - 6 d^2 / 24."""
    _, (heads, row) = rows_of(records)
    expected = ((1 - 6 * 6 / 24) + (1 - 6 * 6 / 24) + (1 - 6 * 6 / 24)) / 3
    assert dict(zip(heads, row, strict=True))["rank correlation"] == f"{expected:+.2f}"


def test_what_is_not_above_chance_is_called_falsified(records):
    for record in records:
        if record.config["method"]["search"]["choice"] == "best":
            record.metrics["integer"]["top1"] = 0.3
    _, (heads, row) = rows_of(records)
    assert dict(zip(heads, row, strict=True))["verdict"] == "falsified"


def test_without_controls_there_is_no_table(records):
    assert assignment_files([r for r in records if r.config["method"]["search"]["choice"] != "random"]) == {}


def test_the_csv_has_every_run(records):
    (text,) = (text for name, text in assignment_files(records).items() if name.endswith(".csv"))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(records)
    drawn = {(row["draw"], row["seed"]): float(row["top1"]) for row in rows if row["choice"] == "random"
             and row["fraction"] == "0.5"}  # fmt: skip
    assert drawn == {(str(d), str(s)): value for d, values in DRAWS.items() for s, value in enumerate(values)}


def test_other_tables_name_the_search_and_keep_it_apart(records):
    names = {label(record.config, "method") for record in records}
    assert "int8 (2/4 bits, bops 0.5)" in names and "int8 (2/4 bits, bops 0.5, random 1)" in names
    assert len(names) == 7
    assert all(len(sweep.series) == 1 for sweep in sweeps(records))
