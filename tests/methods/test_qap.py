"""Quantization-aware pruning as runs: steps that start from each other, around any base, down to the integer graph."""

import numpy as np
import pytest
from composing import TINY, built, settings_of
from layouts import write_jets_csv
from safetensors.torch import load_file

from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.integer.graph import Graph
from oaq_repro.methods.base import Method
from oaq_repro.results.store import list_records
from oaq_repro.settings.composing import config_folder
from oaq_repro.settings.identity import prepared_hash
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.schema import check, read
from oaq_repro.training import prepare

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = [
    *TINY, "method=qap", "model=mlp_digits", "data.image_size=8", "schedule.prepare.epochs=2", "latency=false",
    "schedule.prepare.validations=1", "method.pruning.densities=[0.5,0.2,0.05]", "task.metrics=[auc]",
]  # fmt: skip
WEIGHTS = 64 * 64 + 64 * 32 + 32 * 32 + 32 * 10


def quick(results, *overrides):
    return settings_of(*QUICK, f"results={results}", *overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Step 2, and with it all before it."""
    results = tmp_path_factory.mktemp("results")
    return results, run(quick(results, "method.pruning.step=2"))


@pytest.fixture
def trainings(monkeypatch):
    """The folders that were trained in, in order."""
    seen = []
    fit = prepare.fit

    def noted(run, task, folder, *rest):
        seen.append(folder.parent.name)
        return fit(run, task, folder, *rest)

    monkeypatch.setattr(prepare, "fit", noted)
    return seen


def zeros(results, record):
    """Which weights of the network that is kept before folding are zero, by layer."""
    name = prepared_hash(read(record.config), record.provenance.dataset_fingerprint)
    state = load_file(results / "prepared" / name / str(record.seed) / "weights.safetensors")
    return {n.removesuffix(".weight"): (value == 0).numpy() for n, value in state.items() if value.ndim == 2}


def graph_of(results, record):
    return Graph.load(results / "runs" / record.hash / str(record.seed) / "graph.npz")


def test_the_record_says_what_is_left_and_what_it_costs(made):
    results, record = made
    assert (record.pruning.weights, record.pruning.left) == (WEIGHTS, round(0.2 * WEIGHTS))
    assert (record.pruning.step, record.pruning.density) == (2, 0.2)
    assert set(record.pruning.efficiency) == {"bn1", "bn2", "bn3", "output"}
    values = list(record.pruning.efficiency.values())
    assert record.pruning.eta == pytest.approx(np.exp(np.mean(np.log(values)))) and 0 < record.pruning.eta < 1
    assert set(record.metrics) == {"float", "soft", "hard", "simulated", "integer_int32", "integer"}
    assert all("auc" in values for values in record.metrics.values())
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert {layer.bits_input for layer in record.layers} == {6}
    graph = graph_of(results, record)
    left = sum(int(np.count_nonzero(layer.weight)) for layer in graph.layers())
    assert record.cost.density == pytest.approx(left / WEIGHTS) and left <= record.pruning.left
    bops = 0.0  # QAP's formula, written out for 6 bits
    for layer in graph.layers():
        n, m = layer.weight.shape[1], layer.weight.shape[0]
        f = 1 - np.count_nonzero(layer.weight) / (n * m)
        bops += m * n * ((1 - f) * 36 + 12 + np.log2(n))
    assert record.cost.bops_qap == pytest.approx(bops) and record.cost.bops == 36 * WEIGHTS
    assert record.cost.bops_qap_reference > record.cost.bops_qap


def test_pruned_weights_are_zero_in_the_integer_graph(made):
    results, record = made
    expected = zeros(results, record)
    for layer in graph_of(results, record).layers():
        assert (layer.weight.reshape(expected[layer.name].shape)[expected[layer.name]] == 0).all()


def test_a_step_trains_those_before_it_once_and_a_sweep_each_once(made, trainings):
    results, whole = made
    assert len(list(results.glob("prepared/*"))) == 3
    runs = [run(quick(results, f"method.pruning.step={step}")) for step in (1, 0, 2)]
    assert not trainings and [r.pruning.step for r in runs] == [1, 0, 2] and runs[2] == whole
    assert len({r.hash for r in runs}) == 3 and [r.pruning.left for r in runs[:2]] == [WEIGHTS / 2, WEIGHTS]
    run(quick(results, "method.pruning.step=3"))
    assert len(trainings) == 1
    before, after = (zeros(results, r) for r in runs[:2][::-1])
    assert all((after[name] | ~before[name]).all() for name in before)


def test_other_rankings_and_rewinding_share_the_dense_network_alone(made, trainings):
    results, whole = made
    for override in ("method.pruning.ranking=random", "method.pruning.rewind=start"):
        record = run(quick(results, "method.pruning.step=2", override))
        assert record.pruning.left == whole.pruning.left and record.hash != whole.hash
        assert len(trainings) == 2
        trainings.clear()


def test_what_follows_folding_shares_the_pruned_network_and_other_bits_do_not(made, trainings):
    results, whole = made
    for overrides in (["accumulator.bits=12"], ["method.kind=dsq"], ["requantization=dyadic"], ["method.settle={}"]):
        record = run(quick(results, "method.pruning.step=2", *overrides))
        assert not trainings, overrides
        assert record.metrics["soft"] == whole.metrics["soft"] and record.hash != whole.hash
    other = run(quick(results, "method.pruning.step=1", "quantization.weight_bits=4"))
    assert len(trainings) == 2 and other.pruning.left == WEIGHTS / 2  # no mask of other widths


def test_without_quantization_networks_are_pruned_alone(made):
    results, _ = made
    record = run(quick(results, "method.kind=float32", "method.pruning.step=1"))
    assert record.metrics.keys() == {"float", "soft", "hard"} and record.metrics["soft"] == record.metrics["hard"]
    assert record.cost.density == 0.5 and record.cost.bops == 1024 * WEIGHTS and not record.layers


SHIFTED = ["a2q_plus", "axe", "codebook"]
OTHERS = {"float32", "pmf", *SHIFTED}
BASES = sorted(name for name, kind in KINDS["method"].items() if kind.task is None and name not in OTHERS)


@pytest.mark.parametrize("kind", BASES)
def test_any_base_trains_on_with_zeros_that_stay(made, trainings, kind):
    results, _ = made
    overrides = ["method.pruning.step=2", f"method.kind={kind}", "method.fine_tune=true"]
    record = run(quick(results, *overrides, "accumulator=int16_block", "schedule.finetune.epochs=1"))
    assert not trainings and record.metrics["integer_int32"] == record.metrics["simulated"]
    expected = zeros(results, record)
    for layer in graph_of(results, record).layers():
        assert (layer.weight.reshape(expected[layer.name].shape)[expected[layer.name]] == 0).all()


@pytest.mark.parametrize("kind", SHIFTED)
def test_a_base_that_shifts_weights_is_refused(kind):
    with pytest.raises(
        InputError, match="method.pruning: found one, expected null with a method whose weights of zero"
    ):
        built("method", f"method={kind}", "method.pruning={step: 1}")


class StopError(Exception):
    """Ends a training."""


def test_an_interrupted_step_goes_on_to_the_same_weights(made, tmp_path, monkeypatch):
    _, whole = made
    penalty, calls = Method.preparation_penalty, []

    def interrupted(self, dense):
        calls.append(self.pruning.step)
        if calls.count(2) == 6:  # of 8, four an epoch
            raise StopError
        return penalty(self, dense)

    monkeypatch.setattr("oaq_repro.training.stage.STEPS_BETWEEN_CHECKPOINTS", 4)
    monkeypatch.setattr(Method, "preparation_penalty", interrupted)
    with pytest.raises(StopError):
        run(quick(tmp_path, "method.pruning.step=2"))
    assert calls == [0] * 8 + [1] * 8 + [2] * 6
    calls.clear()
    monkeypatch.setattr(Method, "preparation_penalty", lambda self, dense: (calls.append(0), penalty(self, dense))[1])
    record = run(quick(tmp_path, "method.pruning.step=2"))
    assert len(calls) == 4  # the second epoch
    assert record.metrics == whole.metrics and record.pruning == whole.pruning
    assert record.provenance.checkpoint_hash == whole.provenance.checkpoint_hash
    assert {r.status for r in list_records(tmp_path).records} == {"finished"}


def test_a_schedule_without_the_stage_is_named(tmp_path):
    with pytest.raises(InputError, match=r"schedule\.prepare: found null, expected fields of Schedule: method int8"):
        run(settings_of(*TINY, "method=qap", "schedule.prepare=null", f"results={tmp_path}"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=qap", "method.pruning.step=12"], "method.pruning.step: found 12, expected at most 11"),
        (
            ["method=pmf", "method.pruning={step: 1}"],
            "method.pruning: found one, expected null where weights are train",
        ),
        (["method=hawq", "method.pruning={step: 1}"], "method.pruning, search: found both, expected one"),
        (
            ["method=qap", "method.pruning.ranking=gradient"],
            "method.pruning.ranking: found 'gradient', expected 'magnitude' or",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(overrides, message):
    with pytest.raises(InputError, match=message):
        built("method", *overrides)


def test_jets_run_from_a_table_to_the_integer_graph(tmp_path):
    root = write_jets_csv(tmp_path / "jets.csv", 400)
    overrides = [
        "data=jets", f"data.root={root}", "data.batch_size=32", "data.num_workers=0", "method=qap", "latency=false",
        "method.pruning.step=1", "schedule.float.epochs=2", "schedule.prepare.epochs=8", "schedule.prepare.lr=0.01",
        "threads=1",
        "trainer.enable_progress_bar=false", f"results={tmp_path / 'results'}",
    ]  # fmt: skip
    record = run(settings_of(*overrides))
    assert record.metrics["integer"]["auc"] > 0.5 and record.pruning.left == round(0.9 * 4256)
    assert record.provenance.dataset == "Jets"


@pytest.mark.parametrize(
    "path", sorted((config_folder() / "experiment" / "paper").glob("qap_*.yaml")), ids=lambda p: p.stem
)
def test_presets_have_the_published_network(path):
    settings = check(settings_of(f"+experiment=paper/{path.stem}"))
    assert settings["model"]["hidden"] == [64, 32, 32] and settings["schedule"]["prepare"]["optimizer"] == "adam"
