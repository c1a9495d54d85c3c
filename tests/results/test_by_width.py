import csv
import io
import statistics

import pytest

from oaq_repro.results.by_width import width_files
from oaq_repro.results.record import Record
from oaq_repro.results.summary import paired

ACCURACIES = {("int8", 16): (0.10, 0.20, 0.12), ("oaq", 16): (0.89, 0.81, 0.85), ("oaq", 14): (0.86, 0.78, 0.82)}
FLOAT = (0.90, 0.80, 0.85)


def bits_of(weights, activations=None):
    return {"weight_bits": weights, "activation_bits": activations or weights}


@pytest.fixture
def records(make_record, make_config):
    """Two methods, two widths, three seeds; INT8 only at 16 bits. Exact sums lose 0.01, 90 % agree with float."""
    made = []
    for i, ((method, bits), accuracies) in enumerate(ACCURACIES.items()):
        for seed, accuracy in enumerate(accuracies):
            accumulator = {"bits": bits, "overflow": "wrap", "lanes": 1, "block": None}
            config = make_config(method={"kind": method}, accumulator=accumulator, quantization=bits_of(8), seed=seed)
            metrics = {
                "float": {"top1": FLOAT[seed]},
                "integer_int32": {"top1": FLOAT[seed] - 0.01, "agreement": 0.9},
                "integer": {"top1": accuracy, "agreement": 0.5 + seed / 10},
            }
            made.append(make_record(3, seed=seed, hash=f"{i:016x}", config=config, metrics=metrics))
    return made


def test_differences_are_paired_over_seeds(records) -> None:
    group = [record for record in records if record.hash == f"{1:016x}"]
    differences = [accuracy - before for accuracy, before in zip(ACCURACIES["oaq", 16], FLOAT, strict=True)]
    found = paired(group, "integer", group, "float", "top1")
    assert found is not None and found.n == 3
    assert found.mean == pytest.approx(statistics.fmean(differences))
    assert found.half == pytest.approx(4.302653 * statistics.stdev(differences) / 3**0.5)  # t, 2 degrees of freedom
    assert paired(group, "integer", group, "float", "map") is None


def test_a_row_per_method_and_a_column_per_width(records) -> None:
    files = width_files(records)
    (name,) = (name for name in files if name.endswith(".md"))
    lines = [line.split(" | ") for line in files[name].splitlines() if line.startswith("|")]
    heads, int8, oaq = ([cell.strip("| ") for cell in line] for line in (lines[0], *lines[2:]))
    assert heads == ["method", "32-bit sums", "int14", "int16"]
    assert int8[0] == "int8" and int8[1] == "-1.00 ± 0.00; 90.0" and int8[2] == ""
    assert oaq[0] == "oaq" and oaq[1] == "" and oaq[2].startswith("-3.00 ± ") and oaq[3].startswith("+0.00 ± 2.48 [")
    assert oaq[3].endswith("[111/3,000]; 60.0")
    assert "Float: 85.00 ± 12.42 %" in files[name]


def test_the_csv_has_the_numbers(records) -> None:
    (text,) = (text for name, text in width_files(records).items() if name.endswith(".csv"))
    rows = {(row["method"], row["bits"]): row for row in csv.DictReader(io.StringIO(text))}
    assert set(rows) == {("int8", "16"), ("oaq", "14"), ("oaq", "16")}
    row = rows["oaq", "14"]
    assert float(row["difference"]) == pytest.approx(-0.03) and float(row["difference_int32"]) == pytest.approx(-0.01)
    assert (row["seeds"], row["images_affected"], row["images"], row["certified"]) == ("3", "111", "3000", "False")


def test_one_method_alone_has_no_table(records, make_record) -> None:
    assert not width_files([record for record in records if record.config["method"]["kind"] == "oaq"])
    assert not width_files([])


def test_fewer_bits_of_all_operands_are_a_row_beside_eight(records, make_record, make_config) -> None:
    def narrow(number: int, quantization: dict[str, int]) -> Record:
        config = make_config(method={"kind": "int8"}, quantization=quantization)
        return make_record(3, hash=f"{number:016x}", config=config)

    files = width_files([*records, narrow(8, bits_of(6)), narrow(9, bits_of(6, 8))])  # 8/6 is a sweep of its own
    (text,) = (text for name, text in files.items() if name.endswith(".md"))
    names = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("|")]
    assert names[2:] == ["int8", "int8, 6/6 bits", "oaq"] and "bits" not in text.splitlines()[0]
    row = next(line for line in text.splitlines() if "6/6" in line)
    assert row.split(" | ")[1].strip()  # exact sums
