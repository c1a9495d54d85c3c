"""A run's network gives in ONNX Runtime what the audit says."""

import shutil

import pytest
from composing import tiny
from restricted import NEEDS, RESTRICTABLE, run_restricted
from scripts import load

from oaq_repro.benchmark.saturating_pairs import measure
from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.results.by_pairs import read_pairs
from oaq_repro.results.store import run_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, and its record."""
    results = tmp_path_factory.mktemp("results")
    record = run(tiny(results, "method=int8", "accumulator=int32"))
    return run_folder(results, record.hash, record.seed), record


@pytest.mark.slow
@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_a_run_on_a_processor_without_vnni(finished):
    folder, record = finished
    program = f"from scripts import load\nprint(load('saturating_pairs').main(['--isa', 'native', {str(folder)!r}]))"
    assert run_restricted(program).endswith("\n0\n")
    found = read_pairs(folder / "saturating_pairs.json")
    assert found.exact["top1"] == record.metrics["integer_int32"]["top1"]
    assert found.predicted == found.images == record.overflow.images and found.audited == len(record.layers)
    assert found.changed > 0 and any(layer.changed for layer in found.layers)


@pytest.mark.slow
def test_what_is_missing_is_one_line(finished, tmp_path, capsys):
    folder, record = finished
    assert load("saturating_pairs").main(["--isa", "native", str(tmp_path)]) == 2
    assert "record.json: cannot be read" in capsys.readouterr().err
    copied = tmp_path / record.hash / "0"
    shutil.copytree(folder, copied)
    (copied / "graph.npz").unlink()
    with pytest.raises(InputError, match=r"graph\.npz"):
        measure(copied)
