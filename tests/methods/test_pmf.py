"""PMF against its formulas, written out independently; its stage before folding, and that folding loses nothing."""

import math

import numpy as np
import pytest
import torch
from composing import TINY, built, settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.pmf import LEVELS, PMF, Simplex, WeightsConfig, simplices, sparsemax
from oaq_repro.quant.calibration.calibrate import freeze
from oaq_repro.quant.conversion.trace import LAYERS, fold
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.results.store import list_records
from oaq_repro.training import prepare, shared
from oaq_repro.training.prepare import bake

pytestmark = pytest.mark.usefixtures("one_thread")
SEEDS = st.integers(0, 2**31)
DIMENSIONS = st.sampled_from([2, 3])


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(x):
    """Row by row, in NumPy."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def on_simplex(x):
    """The nearest point of the simplex: of all thresholds that some support would have, the one that fits."""
    for size in range(1, len(x) + 1):
        support = np.sort(x)[::-1][:size]
        point = np.maximum(x - (support.sum() - 1) / size, 0)
        if abs(point.sum() - 1) < 1e-9 and (point > 0).sum() == size:
            return point
    raise AssertionError(x)


def simplex(levels, beta, projection="softmax", gradient="softmax"):
    made = Simplex(WeightsConfig(gradient=gradient, levels=levels)).double()
    made.projection = projection
    made.beta.fill_(beta)
    return made


@settings(max_examples=50, deadline=None)
@given(SEEDS, DIMENSIONS, st.floats(0.1, 50.0), st.sampled_from(["softmax", "reference"]))
def test_the_gradient_is_that_of_the_formula(seed, levels, beta, gradient):
    u_tilde, upstream = draw(seed, 7, levels).requires_grad_(), draw(seed + 1, 7)
    made = simplex(levels, beta, gradient=gradient)
    made(u_tilde).backward(upstream)
    u = softmax(beta * u_tilde.detach().numpy())
    q = np.array({2: [-1, 1], 3: [-1, 0, 1]}[levels])
    for row in range(7):
        v = u[row] if gradient == "softmax" else softmax(beta * u[row])
        jacobian = beta * (np.diag(v) if gradient == "softmax" else np.eye(levels)) - beta * np.outer(v, v)
        expected = jacobian.T @ (q * upstream[row].item())
        np.testing.assert_allclose(u_tilde.grad[row].numpy(), expected, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(SEEDS, DIMENSIONS, st.floats(0.1, 1e4), st.sampled_from(["softmax", "sparsemax", "argmax"]))
def test_memberships_are_on_the_simplex_and_weights_are_their_means(seed, levels, beta, projection):
    made = simplex(levels, beta, projection)
    u_tilde = draw(seed, 5, 4, levels)
    u = made.memberships(u_tilde)
    assert (u >= 0).all() and torch.allclose(u.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(made(u_tilde), u[..., -1] - u[..., 0])


@settings(max_examples=50, deadline=None)
@given(SEEDS, DIMENSIONS)
def test_large_beta_is_argmax(seed, levels):
    u_tilde = draw(seed, 50, levels)
    gaps = u_tilde.topk(2, -1).values
    clear = gaps[:, 0] - gaps[:, 1] > 1e-2
    for projection in ("softmax", "sparsemax"):
        soft, hard = simplex(levels, 1e4, projection)(u_tilde), simplex(levels, 1.0, "argmax")(u_tilde)
        torch.testing.assert_close(soft[clear], hard[clear])
    expected = np.array([-1, 1] if levels == 2 else [-1, 0, 1])[u_tilde.numpy().argmax(-1)]
    assert np.array_equal(hard.numpy(), expected)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(0.1, 10.0))
def test_sparsemax_is_the_nearest_point_of_the_simplex(seed, dimension, spread):
    x = spread * draw(seed, 8, dimension)
    found = sparsemax(x).numpy()
    np.testing.assert_allclose(found, [on_simplex(row) for row in x.numpy()], atol=1e-9)
    for other in softmax(draw(seed + 1, 20, dimension).numpy()):  # no point is nearer
        assert (((x.numpy() - found) ** 2).sum(-1) <= ((x.numpy() - other) ** 2).sum(-1) + 1e-9).all()


def test_argmax_passes_half_of_a_gradient_where_the_difference_is_small():
    u_tilde = torch.tensor([[0.0, 0.5], [0.0, 1.5], [1.0, 0.0], [1.2, 0.0]], requires_grad=True)
    weights = Simplex(WeightsConfig("argmax"))(u_tilde)
    assert weights.tolist() == [1.0, 1.0, -1.0, -1.0]
    weights.backward(torch.tensor([1.0, 1.0, 3.0, 1.0]))
    assert u_tilde.grad.tolist() == [
        [-1, 1],
        [0, 0],
        [-3, 3],
        [0, 0],
    ]  # BinaryConnect's w~ moves by the gradient, twice halved


def test_beta_grows_after_every_interval_up_to_the_largest():
    method = WeightsConfig(beta_scale=2.0, beta_interval=3, beta_max=10.0)
    found = [method.beta(step, 100) for step in range(14)]
    expected, beta = [], 1.0
    for step in range(14):  # the authors' loop
        expected.append(beta)
        if step % 3 == 0:
            beta = min(beta * 2.0, 10.0)
    assert found == pytest.approx(expected) and found[-1] == 10.0
    assert WeightsConfig(beta_interval=1).beta(10**9, 10**9) == pytest.approx(1e4)  # no overflow
    assert WeightsConfig(beta_max=1.0).beta(50, 100) == 1.0


@given(st.integers(100, 10**6), st.floats(1.01, 2.0), st.floats(1.0, 1e5))
def test_without_an_interval_the_training_ends_at_the_largest_beta(steps, scale, largest):
    method = WeightsConfig(beta_scale=scale, beta_max=largest)
    if math.log(largest) / math.log(scale) < 0.9 * steps:
        assert method.beta(steps - 1, steps) == pytest.approx(largest)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["method.weights.gradient=reference", "method.weights.projection=argmax"],
            "method.weights.gradient, projection: found reference and",
        ),
        (
            ["method.weights.levels=3", "method.weights.projection=argmax"],
            "method.weights.levels, projection: found 3 and argmax, expected 2",
        ),
        (["method.weights.levels=4"], "method.weights.levels: found 4"),
        (["method.fine_tune=true"], "method.fine_tune"),
    ],
)
def test_what_does_not_fit_together_is_named(overrides, message):
    extra = [f"+{o}" if "fine_tune" in o else o for o in overrides]
    with pytest.raises(InputError, match=message):
        built("method", "method=pmf", *extra)


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("network", [Classifier, Pyramid])
def test_hard_weights_fold_and_quantize_without_loss(network, levels):
    """Two bits, a scale per channel: the quantized weights are those of the folded network, to the last bit."""
    torch.manual_seed(0)
    dense = trained(network())
    method = PMF(weights=WeightsConfig(levels=levels))
    found = [m for m in dense.modules() if isinstance(m, LAYERS)]
    tensors = sum(1 + (m.bias is not None) for m in found)
    method.prepare(dense)
    assert len(simplices(dense)) == tensors
    dense.train()(images())
    method.harden(dense.eval())
    with torch.no_grad():
        before = dense(images())
    bake(dense)
    assert not simplices(dense)
    for module in dense.modules():
        if isinstance(module, LAYERS):
            assert set(module.weight.unique().tolist()) <= set(LEVELS[levels])
            assert len(module.weight.unique()) == levels
    with torch.no_grad():
        for found, wanted in zip(_tuple(dense(images())), _tuple(before), strict=True):
            assert torch.equal(found, wanted)
    folded = {n: m for n, m in fold(dense, (3, 16, 16)).named_modules() if isinstance(m, LAYERS)}
    model = quantized(dense, method, accumulator="int32", weight_bits=2)
    freeze(model.eval())
    for name, layer in layers(model).items():
        codes, scale = layer.quantized_weight(input_qparams(model, name))
        assert set(codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
        real = codes * scale.reshape(-1, *[1] * (codes.dim() - 1))
        assert torch.equal(real, folded[name].weight.detach())
    x = 2 * images(3, 18, seed=4)
    found = Reference(lower(model)).run(x.numpy())
    with torch.no_grad():
        for got, wanted in zip(found.outputs, _tuple(model(x)), strict=True):
            assert np.array_equal(got, wanted.numpy())


def _tuple(value):
    return (value,) if torch.is_tensor(value) else tuple(value)


@pytest.mark.parametrize("fan_in, certified", [(128, True), (129, False)])
def test_binary_weights_certify_sums_of_128_products(fan_in, certified):
    """255 * 128 = 32640, 255 * 129 = 32895, the largest sum of 16 bits being 32767; all weights of one sign."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, fan_in), nn.ReLU(), nn.Linear(fan_in, 4))
    with torch.no_grad():
        dense[3].weight.fill_(1.0)
    model = quantized(dense, PMF(), accumulator="int16", weight_bits=2, batches=[torch.rand(4, 1, 8, 8)])
    freeze(model.eval())
    graph = lower(model)
    last = list(graph.layers())[-1]
    assert certify(last, graph.qparams(last.inputs[0])).certified is certified


# -- whole runs -----------------------------------------------------------------------------------------------

QUICK = [
    *TINY, "method=pmf", "model=mlp_small", "data.image_size=8", "schedule.prepare.epochs=6", "latency=false",
    "schedule.prepare.validations=1",
]  # fmt: skip


def quick(results, *overrides):
    return settings_of(*QUICK, f"results={results}", *overrides)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return results, run(quick(results))


def test_soft_and_hard_stand_in_the_record_and_the_integers_are_the_simulation(made):
    _, record = made
    assert set(record.metrics) == {"float", "soft", "hard", "simulated", "integer_int32", "integer"}
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert {layer.levels_weight for layer in record.layers} == {2}
    assert record.cost.weight_bytes == (64 * 128 + 128 * 64 + 64 * 10) * 2 / 8 and record.cost.density == 1.0


def test_ternary_weights_have_three_levels(made):
    results, binary = made
    record = run(quick(results, "method.weights.levels=3"))
    assert {layer.levels_weight for layer in record.layers} == {3}
    assert record.cost.density < 1.0 and record.metrics["float"] == binary.metrics["float"]


def test_runs_that_differ_in_quantization_alone_share_the_stage(made, monkeypatch):
    results, first = made

    def no_training(*args, **kwargs):
        raise AssertionError("this was trained before")

    monkeypatch.setattr(prepare, "fit", no_training)
    other = run(quick(results, "quantization.activation_bits=4", "accumulator.bits=12", "task.teacher=float"))
    assert other.hash != first.hash
    assert [other.metrics[s] for s in ("float", "soft", "hard")] == [
        first.metrics[s] for s in ("float", "soft", "hard")
    ]
    with pytest.raises(AssertionError, match="trained before"):
        run(quick(results, "method.weights.beta_max=7"))


def test_weights_do_not_depend_on_who_trained_the_float_parent(made, tmp_path):
    _, whole = made
    run(quick(tmp_path, "method=float32"))  # so that it is there
    assert run(quick(tmp_path)).provenance.checkpoint_hash == whole.provenance.checkpoint_hash


class StopError(Exception):
    """Ends a training."""


def test_an_interrupted_stage_goes_on_with_its_beta_to_the_same_weights(made, tmp_path, monkeypatch):
    _, whole = made
    seen = []
    step = WeightsConfig.beta

    def interrupted(self, number, steps):
        if number == 14:  # of 24; four steps an epoch
            raise StopError
        return step(self, number, steps)

    def noted(self, number, steps):
        seen.append((number, step(self, number, steps)))
        return seen[-1][1]

    monkeypatch.setattr("oaq_repro.training.stage.STEPS_BETWEEN_CHECKPOINTS", 4)
    monkeypatch.setattr(WeightsConfig, "beta", interrupted)
    with pytest.raises(StopError):
        run(quick(tmp_path))
    monkeypatch.setattr(WeightsConfig, "beta", noted)
    record = run(quick(tmp_path))
    assert seen[0] == (12, pytest.approx(1.1**12))  # at an interval of one step
    assert record.metrics == whole.metrics
    assert record.provenance.checkpoint_hash == whole.provenance.checkpoint_hash
    assert shared.METRICS and {r.status for r in list_records(tmp_path).records} == {"finished"}


def test_a_schedule_without_the_stage_is_named(tmp_path):
    with pytest.raises(InputError, match=r"schedule\.prepare: found null, expected fields of Schedule: method pmf"):
        run(settings_of(*TINY, "method=pmf", "schedule.prepare=null", f"results={tmp_path}"))
