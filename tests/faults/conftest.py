"""Faults are not part of `make test`: their files are not named test_*; `make faults` runs them."""

from pathlib import Path

import pytest
from faults.sweeping import call, leftovers, records


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Path:
    """Results of the sweep that nothing disturbed."""
    results = tmp_path_factory.mktemp("reference") / "results"
    status, error = call(results)
    assert status == 0, error
    assert [record["status"] for record in records(results).values()] == ["finished"] * 3
    assert leftovers(results) == []
    return results


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"
