"""Runs of task=video from their data to their records: both stages, interrupted and resumed, and other methods."""

import numpy as np
import pytest
from composing import settings_of

from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.frames import precision
from oaq_repro.integer.graph import Graph
from oaq_repro.results.precision_figure import EXAMPLES_NAME, read_examples
from oaq_repro.results.record import load_record
from oaq_repro.results.store import list_records, run_folder
from oaq_repro.results.terminal import render_record
from oaq_repro.tasks.video import AnyPrecisionTask, PolicyTask

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = [
    "task=video", "data.clips=64", "data.val_clips=20", "data.batch_size=16", "model.channels=[4,6,6,8]",
    "schedule.controller_interval=2", "trainer.enable_progress_bar=false", "quantization.calibration_batches=2",
    "threads=1", "latency=false",
    *(f"schedule.{stage}.{field}" for stage in ("float", "prepare", "finetune")
      for field in ("epochs=2", "warmup_steps=1", "validations=1")),
]  # fmt: skip


def quick(results, *overrides):
    return settings_of(*QUICK, f"results={results}", *overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return results, run(quick(results))


def test_the_record_has_every_width_the_policy_and_its_controls(made):
    results, record = made
    found, folder = record.frame_precision, run_folder(results, record.hash, 0)
    assert load_record(folder / "record.json") == record and record.status == "finished"
    assert set(record.metrics) == {"float", "simulated", "integer_int32", "integer"}
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert (found.clips, found.frames) == (20, 6) and [w.bits for w in found.widths] == [8, 4, 2]
    for graph in found.widths:
        assert set(graph.metrics) == {"soft", "simulated", "integer_int32", "integer"}
        assert graph.metrics["integer_int32"] == graph.metrics["simulated"] and graph.overflow.images == 120
        assert Graph.load(folder / f"graph-{graph.bits}.npz").layers()
        inner = [layer for layer in graph.layers if layer.reason is None]
        assert {layer.bits_input for layer in inner} == {graph.bits}
        assert graph.bits == 8 or all(layer.levels_weight <= 2**graph.bits for layer in inner)
    assert len({graph.cost.macs for graph in found.widths}) == 1
    policy = found.choices[0]
    assert policy.metrics["clip_top1"] == pytest.approx(record.metrics["integer"]["clip_top1"])
    assert policy.metrics["clip_map"] == pytest.approx(record.metrics["integer"]["clip_map"], abs=1e-6)
    for row in found.choices:
        if row.choice == "uniform":
            (graph,) = [g for g in found.widths if g.bits == row.bits]
            assert row.metrics["clip_top1"] == pytest.approx(graph.metrics["integer"]["clip_top1"])
            assert row.bops == graph.cost.bops
    assert sum(sum(counts.values()) for counts in found.by_kind.values()) == 120
    assert sum(counts[0] for counts in found.by_kind.values()) == pytest.approx(120 * policy.frames[0])
    assert {"frames.png", "accuracy_cost.png", EXAMPLES_NAME} <= {path.name for path in folder.iterdir()}
    pixels, bits, labels, kinds = read_examples(folder / EXAMPLES_NAME)
    assert pixels.shape == (10, 6, 12, 12, 1) and pixels.dtype == np.uint8
    assert set(bits.flatten().tolist()) <= {8, 4, 2, 0} and kinds.shape == (10, 6) and len(labels) == 10
    assert render_record(record)


def test_few_bits_certify_longer_blocks(made):
    _, record = made
    inner = {g.bits: [x.longest_block for x in g.layers if x.reason is None] for g in record.frame_precision.widths}
    assert all(a <= b for a, b in zip(inner[8], inner[4], strict=True))
    assert all(x.certified for x in record.frame_precision.widths[2].layers)  # sums of at most 54 products of 3 by 3


def test_runs_that_differ_in_the_policy_share_stage_1(made, monkeypatch):
    results, first = made
    stages = []
    fit = precision.fit

    def noted(run, task, folder, stage, *rest):
        stages.append(stage)
        return fit(run, task, folder, stage, *rest)

    monkeypatch.setattr(precision, "fit", noted)
    other = run(quick(results, "method.policy.cost_weight=3"))
    assert stages == ["finetune"] and other.hash != first.hash
    uniform = [[r.metrics for r in x.frame_precision.choices if r.choice == "uniform"] for x in (first, other)]
    assert uniform[0] == uniform[1]


class StopError(Exception):
    """Ends a training."""


@pytest.mark.parametrize("task, step", [(AnyPrecisionTask, 6), (PolicyTask, 6)])
def test_an_interrupted_stage_goes_on_to_the_same_record(made, tmp_path, monkeypatch, task, step):
    """Stopped in the second epoch, of four steps; what was trained before is not trained again."""
    _, whole = made
    objective, calls = task.objective, []

    def interrupted(self, images, target):
        calls.append(self.global_step)
        if len(calls) == step + 1:
            raise StopError
        return objective(self, images, target)

    monkeypatch.setattr("oaq_repro.training.stage.STEPS_BETWEEN_CHECKPOINTS", 4)
    monkeypatch.setattr(task, "objective", interrupted)
    with pytest.raises(StopError):
        run(quick(tmp_path))
    (failed,) = list_records(tmp_path).records
    assert failed.status == "failed" and failed.frame_precision is None
    calls[:] = [-1] * 100
    record = run(quick(tmp_path))
    assert calls[100:] == [4, 5, 6, 7]
    assert record.provenance.checkpoint_hash == whole.provenance.checkpoint_hash
    assert record.frame_precision.choices == whole.frame_precision.choices and record.metrics == whole.metrics


@pytest.mark.parametrize("method", ["int8", "float32"])
def test_other_methods_run_on_clips(tmp_path, method):
    """One precision for all frames; the images that are counted are frames."""
    record = run(quick(tmp_path, f"method={method}"))
    assert record.status == "finished" and record.frame_precision is None
    if method == "int8":
        assert record.overflow.images == 120 and record.overflow.settle_images == 64 * 6
        assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert set(record.metrics["float"]) == {"clip_top1", "clip_map"}


def test_a_policy_without_a_schedule_is_named(made):
    results, _ = made
    without = [override for override in QUICK if "schedule.finetune" not in override]
    with pytest.raises(InputError, match="schedule.finetune: found null, expected fields of Schedule: method videoiq"):
        run(settings_of(*without, f"results={results}", "schedule.finetune=null"))


@pytest.mark.slow
def test_the_reference_formula_runs(tmp_path):
    record = run(quick(tmp_path, "method.precision.formula=reference", "method.settle=null", "accumulator=int32"))
    assert record.status == "finished"
    two = record.frame_precision.widths[2]
    assert two.metrics["integer_int32"] == two.metrics["simulated"]
    assert all(layer.levels_weight <= 4 * 8 for layer in two.layers if layer.reason is None)
