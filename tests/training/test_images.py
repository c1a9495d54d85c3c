"""Calibration without data: which images are looked at, that they are kept, and what a run makes of them."""

import numpy as np
import pytest
from composing import TINY, settings_of

from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.training import images as made

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = [
    *TINY, "data=digits_sweep", "model=mlp_small", "latency=false", "schedule.float.epochs=1",
    "quantization.calibration.images=24", "quantization.calibration.steps=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder in which all runs share one float parent."""
    return tmp_path_factory.mktemp("results")


def quick(results, source, *overrides, method="ptq_int8"):
    made_of = f"method={method}", f"quantization.calibration.source={source}"
    return run(settings_of(*QUICK, *made_of, f"results={results}", *overrides))


@pytest.mark.parametrize("source", ["distilled", "gaussian", "uniform"])
def test_all_passes_look_at_the_made_images(results, source):
    record = quick(results, source, "method.bias_correction=true")
    real = quick(results, "real", "method.bias_correction=true")
    assert record.overflow.settle_images == 24 and real.overflow.settle_images == 64
    assert record.metrics["float"] == real.metrics["float"]
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert record.provenance.checkpoint_hash != real.provenance.checkpoint_hash
    assert record.hash != real.hash


def test_distilled_images_are_pixels_and_are_kept_for_all_runs(results, monkeypatch):
    quick(results, "distilled")
    (path,) = results.glob("parents/*/0/distilled-24-3-0.1.npy")
    kept = np.load(path)
    low, high = (0 - 0.31) / 0.38, (1 - 0.31) / 0.38
    assert kept.shape == (24, 1, 8, 8) and kept.dtype == np.float32
    assert kept.min() >= low - 1e-6 and kept.max() <= high + 1e-6

    def again(*args):
        raise AssertionError("these were made before")

    monkeypatch.setattr(made, "distilled", again)
    quick(results, "distilled", "quantization.activation_bits=4")
    with pytest.raises(AssertionError, match="made before"):
        quick(results, "distilled", "quantization.calibration.steps=4")
    path.write_bytes(b"no array")
    with pytest.raises(InputError, match=r"distilled-24-3-0\.1\.npy: cannot be read"):
        quick(results, "distilled", "quantization.activation_bits=5")
    path.unlink()


def test_a_dynamic_run_ends_after_its_simulation_and_says_why(results):
    record = quick(results, "real", "quantization.observer.kind=dynamic")
    assert record.status == "finished" and set(record.metrics) == {"float", "simulated"}
    (reason,) = record.simulated_only
    assert "quantization.observer.kind=dynamic" in reason and record.layers == [] and record.overflow is None


def test_codes_of_a_codebook_are_in_the_record(results):
    record = quick(results, "real", "quantization.weight_bits=3", method="codebook")
    assert {layer.bits_code for layer in record.layers} == {3} and record.simulated_only == []
    assert all(layer.levels_weight <= 8 and layer.bits_weight > 6 for layer in record.layers)
    weights = 64 * 128 + 128 * 64 + 64 * 10
    assert record.cost.weight_bytes == weights * 3 / 8 + 3 * 8
    assert {layer.bits_code for layer in quick(results, "real").layers} == {None}
