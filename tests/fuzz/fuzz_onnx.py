"""Many more mutated ONNX files than the unit tests have, with bounded memory. Run by `make fuzz`."""

import pytest
from fuzz.memory import no_more_than
from integer.onnx.test_strict import agrees_or_is_refused

MUTANTS, PART = 3_000, 100
FIRST = 2_000_000  # the unit tests have the small numbers


@pytest.mark.parametrize("first", range(FIRST, FIRST + MUTANTS, PART))
def test_mutants(tmp_path, first):
    ran = 0
    for seed in range(first, first + PART):
        with no_more_than(2 << 30):
            ran += agrees_or_is_refused(tmp_path / "model.onnx", seed)
    assert ran > 5
