import statistics

import pytest

from oaq_repro.results.by_requantization import requantization_files

VALUES = {
    ("int8", "float32"): (0.90, 0.80, 0.85), ("int8", "dyadic"): (0.91, 0.80, 0.85),
    ("oaq", "float32"): (0.90, 0.80, 0.85), ("oaq", "fixed16"): (0.89, 0.78, 0.85),
    ("lsq", "dyadic"): (0.7, 0.7, 0.7), ("pact", "float32"): (0.6, 0.6, 0.6),
}  # fmt: skip


@pytest.fixture
def records(make_record, make_config):
    """Methods with and without a run in float32 beside another; dyadic is not said to be science where it is not."""
    made = []
    for i, ((method, requantization), accuracies) in enumerate(VALUES.items()):
        for seed, accuracy in enumerate(accuracies):
            config = make_config(method={"kind": method}, quantization={"requantization": requantization}, seed=seed)
            metrics = {"float": {"top1": 0.9}, "integer_int32": {"top1": accuracy}, "integer": {"top1": accuracy}}
            record = make_record(3, seed=seed, hash=f"{i:016x}", config=config, metrics=metrics)
            if requantization == "float32":
                record.science["quantization"] = {}
            made.append(record)
    return made


def test_differences_to_float32_are_paired(records) -> None:
    ((name, text),) = requantization_files(records).items()
    assert name.startswith("requantization-cifar10-classifier-") and name.endswith(".md")
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    heads, int8, oaq = lines[0], *lines[2:]
    assert heads == ["method", "accumulator", "float32", "dyadic", "fixed16",
                     "float32, exact sums", "dyadic, exact sums", "fixed16, exact sums"]  # fmt: skip
    assert int8[:2] == ["int8", "int16"] and oaq[:2] == ["oaq", "int16"]
    half = 4.302653 * statistics.stdev([0.01, 0.0, 0.0]) / 3**0.5  # Student t, 2 degrees of freedom
    assert int8[3] == f"+0.33 ± {100 * half:.2f} [111/3,000]" and int8[4] == "-" and int8[6].startswith("+0.33")
    assert oaq[3] == "-" and oaq[4].startswith("-1.00 ± ")
    assert oaq[2] == "85.00 ± 12.42 [111/3,000]"


def test_nothing_to_compare_is_no_table(records) -> None:
    assert requantization_files([]) == {}
    assert requantization_files([r for r in records if r.config["quantization"]["requantization"] == "float32"]) == {}
