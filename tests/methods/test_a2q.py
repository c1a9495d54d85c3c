import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Larger, Pyramid, images, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.a2q import A2Q
from oaq_repro.methods.a2q_plus import A2QPlus, project
from oaq_repro.quant.calibration.calibrate import freeze
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.settings.schema import build

METHODS = [A2Q, A2QPlus]
POLICIES = ["int16", "int16_lanes8", "int16_block", "pair_saturating"]


def tensor(zero_point=0, q_max=255):
    return QParams(torch.ones(()), torch.tensor(float(zero_point)), torch.tensor(float(q_max)))


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def certificates(model):
    graph = lower(model)
    return [certify(layer, graph.qparams(layer.inputs[0])) for layer in graph.layers()]


@pytest.mark.parametrize("method, name", [(A2Q, "Int8AccumulatorAware"), (A2QPlus, "Int8AccumulatorAwareZeroCenter")])
@pytest.mark.parametrize("bits", [16, 17, 18])
@pytest.mark.parametrize("input_bits, signed", [(8, False), (8, True), (4, False)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_integers_are_those_of_the_authors_package(method, name, bits, input_bits, signed, seed):
    quant = pytest.importorskip("brevitas.quant")
    from brevitas import nn as brevitas_nn

    torch.manual_seed(seed)
    conv = brevitas_nn.QuantConv2d(
        16, 6, 3, bias=False, weight_quant=getattr(quant, f"{name}WeightQuant"), weight_accumulator_bit_width=bits,
        input_quant=quant.Int8ActPerTensorFloat if signed else quant.Uint8ActPerTensorFloat, input_bit_width=input_bits,
    )  # fmt: skip
    expected = conv.quant_weight(conv.input_quant(torch.rand(1, 16, 4, 4)))
    quantizer = method().weight_quantizer(8, per_channel=True)
    quantizer.attach(conv.weight)
    x = tensor(2 ** (input_bits - 1) if signed else 0, 2**input_bits - 1)
    codes, scale = quantizer(conv.weight, torch.zeros(6), x, Accumulator(bits))
    assert codes.any() and torch.equal(codes, expected.int().float())
    assert torch.equal(scale, expected.scale.flatten())


@pytest.mark.parametrize(
    "method, x, expected",
    [
        (A2Q, tensor(), 32767 / 256),
        (A2Q, tensor(128), 32767 / 128),
        (A2Q, tensor(0, 15), 32767 / 16),
        (A2QPlus, tensor(), 65534 / 255),
        (A2QPlus, tensor(100), 65534 / 255),
        (A2QPlus, tensor(0, 15), 65534 / 15),
    ],
)
def test_budgets_are_the_published_ones(method, x, expected):
    quantizer = method().weight_quantizer(8, True)
    assert float(quantizer.budget(x, NAMED["int16"])) == pytest.approx(expected)


def test_without_pressure_the_weights_are_only_rounded():
    weight = random(0, 5, 4, 3, 3)
    quantizer = A2Q().weight_quantizer(8, True)
    quantizer.attach(weight)
    codes, scale = quantizer(weight, torch.zeros(5), tensor(), NAMED["int32"])
    torch.testing.assert_close(scale, weight.abs().amax((1, 2, 3)) / 127)
    exact = weight / scale.reshape(-1, 1, 1, 1)
    assert ((codes.abs() <= exact.abs() + 1e-3) & (codes.abs() > exact.abs() - 1.001)).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(METHODS),
    st.sampled_from([Pyramid, Larger]),
    st.integers(0, 2**31),
    st.integers(9, 18),
    st.sampled_from(POLICIES),
    st.sampled_from([3, 4, 5, 8]),
)
def test_any_weights_are_certified(method, network, seed, bits, policy, operand_bits):
    model = quantized(
        trained(network(), seed), method(), batches=[images(seed=seed)], weight_bits=operand_bits,
        activation_bits=operand_bits,
    )  # fmt: skip
    for layer in layers(model).values():
        layer.accumulator = NAMED[policy].with_bits(bits)
    assert all(c.certified for c in certificates(model))
    method().start(model)
    assert all(c.certified for c in certificates(model))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_guarantee_holds_through_training(method, policy):
    torch.manual_seed(0)
    model = quantized(trained(Classifier()), method(), accumulator=policy)
    for layer in layers(model).values():
        layer.accumulator = NAMED[policy].with_bits(14)
    method().start(model)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(model(images()), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        (loss + method().penalty(model)).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    freeze(model)
    model.eval()
    assert all(c.certified for c in certificates(model))
    x = 20 * images(3)
    run = Reference(lower(model)).run(x.numpy())
    assert not any(events.any() for events in run.events.values())
    assert torch.equal(torch.from_numpy(run.outputs[0]), model(x))


def test_the_penalty_is_the_norms_excess():
    model = quantized(trained(Classifier()), A2Q())
    expected = 0.0
    for name, layer in layers(model).items():
        q = layer.weight_quantizer
        source = model.get_submodule(model.sources[name]).output
        _, zero_point, q_max = source.parameters_of_range()
        budget = 32767 / max(float(zero_point), float(q_max) + 1 - float(zero_point))
        norm, scale = layer.weight.abs().flatten(1).sum(1), layer.weight.abs().flatten(1).amax(1) / 127
        expected += float((norm - budget * scale).clamp(min=0).sum().detach())
        assert isinstance(q.log_norm, torch.nn.Parameter)
    assert expected > 0
    assert float(A2Q(penalty_weight=0.5).penalty(model).detach()) == pytest.approx(0.5 * expected, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20), st.floats(0.01, 3.0))
def test_the_projection_is_the_one_by_sorting(seed, size, radius):
    """Duchi et al. (ICML 2008) find the threshold by sorting."""
    rows = random(seed, 3, size)
    found = project(rows, torch.zeros(size, dtype=torch.int64), torch.full((3,), radius))
    for row, projected in zip(rows.double(), found, strict=True):
        magnitudes = row.abs()
        if magnitudes.sum() > radius:
            ordered = magnitudes.sort(descending=True).values
            thresholds = (ordered.cumsum(0) - radius) / torch.arange(1, size + 1)
            theta = thresholds[int((ordered > thresholds).sum()) - 1]
            row = row.sign() * (magnitudes - theta).clamp(min=0)
        torch.testing.assert_close(projected.double(), row, atol=1e-6, rtol=1e-5)


def test_only_sums_that_could_overflow_are_centred():
    weight = random(0, 2, 3, 1, 1).abs() + 0.5
    quantizer = A2QPlus().weight_quantizer(8, True)
    quantizer.attach(weight)
    assert (quantizer(weight, torch.zeros(2), tensor(), NAMED["int32"])[0] > 0).all()
    codes = quantizer(weight, torch.zeros(2), tensor(), NAMED["int16"])[0]
    assert (codes > 0).any() and (codes < 0).any() and codes.flatten(1).sum(1).abs().max() <= 2


def test_bad_penalty():
    with pytest.raises(InputError, match="method.penalty_weight: found -1"):
        build("method", {"kind": "a2q_plus", "penalty_weight": -1})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_start_of_least_error_is_no_worse_than_the_published_one(method, per_channel):
    errors = {}
    for start in ("range", "error"):
        torch.manual_seed(0)
        parent = trained(Classifier())
        model = quantized(parent, method(), per_channel=per_channel)
        weights = {name: layer.weight.detach().clone() for name, layer in layers(model).items()}
        for layer in layers(model).values():
            layer.accumulator = Accumulator(14)
        method(scale_start=start).start(model)
        for name, layer in layers(model).items():
            codes, scale = layer.quantized_weight(input_qparams(model, name))
            error = (codes * scale.reshape(-1, *[1] * (codes.dim() - 1)) - weights[name]).square().flatten(1).sum(1)
            errors[start, name] = error.detach() if per_channel else error.sum().detach()
    better = [(errors["error", n] <= errors["range", n] * 1.0001).all() for n in layers(model)]
    assert all(better)
    assert errors["error", "expand.0"].sum() < errors["range", "expand.0"].sum() / 2


def test_bad_start():
    with pytest.raises(InputError, match="method.scale_start: found 'x'"):
        build("method", {"kind": "a2q", "scale_start": "x"})
