import json

import pytest
import torch
from composing import settings_of, tiny
from safetensors.torch import load_file

from oaq_repro import experiment
from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.reference import Reference
from oaq_repro.models.checkpoint import content_hash, read_torch
from oaq_repro.results.record import load_record
from oaq_repro.results.store import run_folder
from oaq_repro.training import fine_tune, parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One results folder for the module, so that the float parent is trained once."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def oaq(results):
    return run(tiny(results, "method=oaq", "accumulator.bits=16"))


def folder_of(results, record):
    return run_folder(results, record.hash, record.seed)


def test_a_run_leaves_everything_it_promises(results, oaq):
    folder = folder_of(results, oaq)
    assert load_record(folder / "record.json") == oaq
    assert oaq.status == "finished"
    assert set(oaq.metrics) == {"float", "simulated", "integer_int32", "integer"}
    assert oaq.metrics["integer_int32"] == oaq.metrics["simulated"]
    assert {p.name for p in folder.iterdir()} >= {
        "graph.npz",
        "quantized.ckpt",
        "alpha.png",
        "overflow.png",
        "finetune",
    }
    assert oaq.headline == oaq.metrics["integer"]["top1"]
    assert oaq.provenance.kernels == InstructionSet.selected().isa
    assert (folder / "finetune" / "metrics.csv").read_text().count("\n") > 1


def test_factors_that_are_settled_before_training_are_those_it_starts_with(results):
    record = run(
        tiny(
            results,
            *("method=oaq", "accumulator.bits=12", "method.settle.before_training=true", "method.decrease_until=0"),
            *("method.interval=1", "method.warmup_steps=0", "method.lr=1e-6", "method.lr_max=1e-6"),
        )
    )
    trained = max(results.glob("fine_tuned/*/*/weights.safetensors"), key=lambda path: path.stat().st_mtime)
    alphas = [float(value) for key, value in load_file(trained).items() if key.endswith("output.alpha")]
    assert max(alphas) > 1.5  # which steps of 1e-6 do not reach
    assert record.overflow.settle_events == 0


def test_oaq_has_no_event_on_the_settle_set(oaq):
    assert oaq.overflow.settle_events == 0
    assert oaq.overflow.settle_images == 64
    assert any(layer.alpha_weight > 1 for layer in oaq.layers)
    assert [layer.accumulator for layer in oaq.layers if layer.reason] == ["int32", "int32"]
    assert {layer.accumulator for layer in oaq.layers[1:-1]} == {"int16"}


def test_the_saved_graph_and_checkpoint_are_those_of_the_record(results, oaq):
    folder = folder_of(results, oaq)
    graph = Graph.load(folder / "graph.npz")
    assert [layer.name for layer in graph.layers()] == [layer.name for layer in oaq.layers]
    assert Reference(graph).run(torch.zeros(1, 1, 16, 16).numpy()).outputs[0].shape == (1, 10)
    state = torch.load(folder / "quantized.ckpt", weights_only=True)["state_dict"]
    alphas = {k: float(v.mean()) for k, v in state.items() if k.endswith("weight_quantizer.alpha")}
    assert sorted(alphas.values()) == pytest.approx(sorted(layer.alpha_weight for layer in oaq.layers))


def no_training(*args, **kwargs):
    raise AssertionError("this was trained before")


def test_a_finished_run_is_never_trained_again(results, oaq, monkeypatch):
    monkeypatch.setattr(fine_tune, "fit", no_training)
    monkeypatch.setattr(parent, "fit", no_training)
    assert run(tiny(results, "method=oaq", "accumulator.bits=16", "threads=2")) == oaq


def test_int8_overflows_and_pays_for_it_and_shares_the_parent(results, oaq, monkeypatch):
    monkeypatch.setattr(parent, "fit", no_training)
    record = run(tiny(results, "method=int8", "accumulator.bits=12"))
    assert record.provenance.parent_hash == oaq.provenance.parent_hash
    assert record.metrics["float"] == oaq.metrics["float"]
    assert record.overflow.evaluation_events > 0 and record.overflow.settle_events > 0
    assert record.overflow.images_affected > 0
    assert {layer.alpha_weight for layer in record.layers} == {1.0}


def test_a_teacher_takes_the_place_of_labels(results, oaq, monkeypatch):
    """On every method that trains: see tests/tasks for the loss."""
    monkeypatch.setattr(parent, "fit", no_training)
    record = run(tiny(results, "method=oaq", "task.teacher=float", "schedule.finetune.epochs=1"))
    assert record.provenance.parent_hash == oaq.provenance.parent_hash and record.hash != oaq.hash
    assert record.science["task"] == {"kind": "classification", "teacher": "float"}
    assert record.metrics["integer_int32"] == record.metrics["simulated"]


def test_the_float_parent_alone(results, oaq):
    record = run(tiny(results, "method=float32"))
    assert record.metrics == {"float": oaq.metrics["float"]}
    assert record.layers == [] and record.overflow is None and record.provenance.kernels is None
    assert (record.cost.macs, record.cost.weight_bytes) == (oaq.cost.macs, 4 * oaq.cost.weight_bytes)
    assert record.cost.bops == 16 * oaq.cost.bops


def test_clamps_are_whole_numbers(results, oaq):
    record = run(tiny(results, "method=oaq_clamp", "accumulator.bits=13"))
    clamps = [127 / layer.alpha_weight for layer in record.layers]
    assert clamps == pytest.approx([round(c) for c in clamps], rel=1e-5)
    assert min(clamps) < 127


def test_biases_are_corrected_and_settled_again(results, oaq):
    fields = ("method=int8_settle", "method.fine_tune=false", "accumulator.bits=14")
    plain, corrected = (run(tiny(results, *fields, f"method.bias_correction={on}")) for on in ("false", "true"))
    assert corrected.hash != plain.hash and corrected.overflow.settle_events == 0
    assert all(layer.bias_shift is None for layer in plain.layers)
    assert all(layer.bias_shift > 0 for layer in corrected.layers)
    assert corrected.metrics["integer_int32"] == corrected.metrics["simulated"]


def test_layers_left_in_float_have_no_integer_stage(results, oaq):
    record = run(tiny(results, "method=int8", "+quantization.overrides.mine={match: fc, skip: true}"))
    assert record.left_float == ["fc"]
    assert set(record.metrics) == {"float", "simulated"}


def test_a_post_training_run_has_no_fine_tuning(results, oaq, monkeypatch):
    monkeypatch.setattr(fine_tune, "fit", no_training)
    record = run(tiny(results, "method=int8_settle", "schedule.finetune=null"))
    assert record.metrics["simulated"] and record.overflow.settle_events == 0


def test_a_post_training_method_has_no_fine_tuning_whatever_the_schedule(results, oaq, monkeypatch):
    monkeypatch.setattr(fine_tune, "fit", no_training)
    record = run(tiny(results, "method=ptq_int8", "accumulator=int32"))
    assert record.metrics["integer"] == record.metrics["simulated"]
    assert {layer.alpha_weight for layer in record.layers} == {1.0}


@pytest.mark.parametrize("method", ["a2q", "a2q_plus", "axe", "certified_scale", "oaq_certified"])
def test_certified_methods_are_certified_in_the_record(results, oaq, method):
    record = run(tiny(results, f"method={method}", "accumulator.bits=15"))
    assert all(layer.certified for layer in record.layers)
    assert record.overflow.settle_events == record.overflow.evaluation_events == 0
    assert record.metrics["integer"] == record.metrics["integer_int32"] == record.metrics["simulated"]


def test_nan_is_one_clear_error_and_a_failed_record(results, oaq):
    config = tiny(results, "method=int8", "schedule.finetune.lr=1e9", "schedule.finetune.decay=constant")
    with pytest.raises(InputError, match=r"loss is (nan|inf) in epoch \d+, step \d+, at learning rate"):
        run(config)
    (failed,) = [r for r in map(load_record, results.glob("runs/*/*/record.json")) if r.status == "failed"]
    assert "learning rate" in failed.provenance.error
    assert failed.metrics["float"] == oaq.metrics["float"]


def test_a_full_disk_loses_nothing(results, oaq, monkeypatch):
    import os

    def full(source, target, **kwargs):
        if str(target).endswith("record.json"):
            raise OSError(28, "No space left on device")
        return replace(source, target, **kwargs)

    replace = os.replace
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="record.json: cannot be written .No space left on device"):
        run(tiny(results, "method=int8", "accumulator=int32"))
    assert load_record(folder_of(results, oaq) / "record.json") == oaq
    monkeypatch.undo()
    monkeypatch.setattr(parent, "fit", no_training)
    assert run(tiny(results, "method=int8", "accumulator=int32")).status == "finished"


def test_figures_are_there_before_the_record_says_finished(results, oaq, monkeypatch):
    def full(record, folder):
        raise InputError("alpha.png: cannot be written")

    config = tiny(results, "method=oaq", "accumulator.bits=16", "quantization.activation_bits=7")
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "write_figures", full)
        with pytest.raises(InputError, match="alpha.png"):
            run(config)
    (failed,) = [
        r for r in map(load_record, results.glob("runs/*/*/record.json")) if "alpha.png" in (r.provenance.error or "")
    ]
    assert failed.status == "failed"
    again = run(config)
    assert again.status == "finished" and (folder_of(results, again) / "alpha.png").exists()
    checkpoint = read_torch(folder_of(results, again) / "quantized.ckpt")["state_dict"]
    assert again.provenance.checkpoint_hash == failed.provenance.checkpoint_hash == content_hash(checkpoint)


def test_a_damaged_record_is_one_line_with_the_remedy(results, oaq):
    path = folder_of(results, oaq) / "record.json"
    good = path.read_text()
    path.write_text(good.replace('"seed": 0', '"seed": 00', 1))
    with pytest.raises(InputError, match="record.json: is not valid JSON .* remove this one to make the run again"):
        run(tiny(results, "method=oaq", "accumulator.bits=16"))
    path.write_text(good)


def test_data_of_another_task(results):
    with pytest.raises(
        InputError,
        match="data: found voc_detection, which is for detection, with task=classification; expected task=det",
    ):
        run(settings_of("task=classification", "data=voc_detection", f"results={results}"))


def test_metrics_of_a_parent_that_cannot_be_read(results, oaq):
    (path,) = results.glob("parents/*/0/metrics.json")
    good = path.read_text()
    path.write_text("{")
    with pytest.raises(InputError, match=r"metrics.json: cannot be read"):
        run(tiny(results, "method=int8", "accumulator.bits=17"))
    path.write_text(good)


def test_records_are_plain_json(results, oaq):
    content = json.loads((folder_of(results, oaq) / "record.json").read_text())
    assert {"hash", "seed", "status", "config", "metrics", "overflow", "layers", "latency_ms", "provenance"} <= set(
        content
    )
    assert content["config"]["quantization"]["accumulator"]["bits"] == 16
