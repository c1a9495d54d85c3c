"""Hutchinson's estimate against the whole Hessian of networks small enough to have one."""

import math

import pytest
import torch
from quant.networks import Classifier, Gated, Larger, Pyramid, images, quantized, trained
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss, multi_margin_loss

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.trace import fold
from oaq_repro.quant.mixed_precision.sensitivity import hessian_traces, sensitivities, squared_error
from oaq_repro.quant.network import layers


def tiny():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 2, 2),
        nn.Tanh(),
        nn.ConvTranspose2d(2, 2, 2, bias=False),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(18, 3),
    ).eval()


def labelled(count, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 3, 3, generator=draws), torch.randint(3, (count,), generator=draws)


def exact(model, name, images, target, loss=cross_entropy):
    """The trace from the Hessian itself."""
    weight = model.get_submodule(name).weight.detach()

    def of(w):
        return loss(functional_call(model, {f"{name}.weight": w}, (images,)), target)

    hessian = torch.autograd.functional.hessian(of, weight)
    return float(hessian.reshape(weight.numel(), weight.numel()).trace())


def test_the_estimate_is_the_exact_trace_within_its_error():
    model, (x, y) = tiny(), labelled(12)
    few, found = (hessian_traces(model, [(x, y)], cross_entropy, vectors=vectors) for vectors in (40, 640))
    assert list(found) == ["0", "2", "5"]
    for name, trace in found.items():
        expected = exact(model, name, x, y)
        assert abs(trace.mean - expected) < 4 * trace.standard_error
        assert 0 < trace.standard_error < 0.4 * few[name].standard_error
        assert trace.average == trace.mean / model.get_submodule(name).weight.numel()


def test_a_diagonal_hessian_has_no_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])).reshape(4, 1, 2, 2)
    found = hessian_traces(model, [(x, torch.zeros(4, 2))], mse_loss, vectors=2)["1"]
    # mean over 4 x 2 elements of (w x)^2: second derivatives 2 x^2 / 8
    assert (found.mean, found.standard_error) == (pytest.approx(2 * 2 * 30 / 8), pytest.approx(0, abs=1e-6))


def test_the_standard_error_is_the_spread_over_seeds():
    model, batch = tiny(), labelled(6)
    found = [hessian_traces(model, [batch], cross_entropy, vectors=8, seed=seed)["2"] for seed in range(60)]
    spread = torch.tensor([trace.mean for trace in found]).std()
    error = torch.tensor([trace.standard_error for trace in found]).square().mean().sqrt()
    assert 0.6 < spread / error < 1.6


def test_seeds():
    model, batch = tiny(), labelled(6)
    first, again, other = (hessian_traces(model, [batch], cross_entropy, vectors=2, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other


def test_images_count_alike_however_they_are_batched():
    model, (x, y) = tiny(), labelled(10)
    whole = hessian_traces(model, [(x, y)], cross_entropy, vectors=3)
    parts = hessian_traces(model, [(x[:7], y[:7]), (x[7:], y[7:])], cross_entropy, vectors=3)
    for name, trace in whole.items():
        assert parts[name].mean == pytest.approx(trace.mean, rel=1e-4)


def test_shared_weights_share_their_trace():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(1, 1, 1, bias=False)

        def forward(self, x):
            return self.head(torch.tanh(self.head(x))).flatten(1)

    torch.manual_seed(0)
    network, (x, _) = Twice().eval(), labelled(5)
    y = torch.zeros(5, 9)
    found = hessian_traces(fold(network), [(x, y)], mse_loss, vectors=2)
    assert len(found) == 2
    assert sum(trace.mean for trace in found.values()) == pytest.approx(
        exact(network, "head", x, y, mse_loss), rel=1e-4
    )


@pytest.mark.parametrize("network", [Classifier, Pyramid, Larger, Gated])
def test_layers_are_those_of_the_quantized_network_and_nothing_changes(network):
    parent = trained(network())
    model = fold(parent).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def loss(outputs, target):
        first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        return first.square().mean()

    traces = hessian_traces(model, [(images(), None)], loss, vectors=2)
    assert set(traces) >= set(layers(quantized(parent)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    if network is Pyramid:
        assert traces["second"].mean == 0  # the loss does not see it
    found = sensitivities(model, traces, [2, 4, 8])
    for name, trace in traces.items():
        assert set(found[name]) == {2, 4, 8}
        if trace.mean > 0:
            assert found[name][2] > found[name][4] > found[name][8] > 0


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    found = hessian_traces(model, [(torch.ones(3, 1, 2, 2), None)], lambda y, _: y.mean(), vectors=2)["1"]
    assert (found.mean, found.standard_error) == (0, 0)


def test_hard_sigmoids_have_a_second_derivative_here():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Hardsigmoid(inplace=True)).eval()
    model[0].weight.data = torch.tensor([[0.5, -0.5]])
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [40.0, 0.0]])  # the last is on the flat part
    found = hessian_traces(model, [(x, torch.zeros(3, 1))], mse_loss, vectors=2)["0"]
    assert found.mean == pytest.approx(2 * (1 + 4) / 36 / 3)


def test_squared_error_by_hand():
    weight = torch.tensor([[1.0, 0.2, -0.6], [2.0, 0.0, 1.4]])  # at 2 bits: codes -1, 0, 1 times the largest
    assert squared_error(weight, 2) == pytest.approx(0.2**2 + 0.4**2 + 0.6**2)
    assert squared_error(weight, 2, per_channel=False) == pytest.approx(1 + 0.2**2 + 0.6**2 + 0.6**2)
    transposed = nn.ConvTranspose2d(2, 3, 1)
    transposed.weight.data = weight.reshape(2, 3, 1, 1)
    traces = hessian_traces(
        nn.Sequential(transposed).eval(), [(torch.ones(1, 2, 1, 1), None)], lambda y, _: y.square().sum(), vectors=2
    )
    errors = [squared_error(weight[:, i : i + 1].T, 2) for i in range(3)]  # an output channel is a column here
    expected = traces["0"].mean / 6 * sum(errors)
    assert sensitivities(nn.Sequential(transposed), traces, [2])["0"][2] == pytest.approx(expected)


def test_what_cannot_be_estimated():
    model, (x, y) = tiny(), labelled(4)
    with pytest.raises(InputError, match="vectors: found 1"):
        hessian_traces(model, [(x, y)], cross_entropy, vectors=1)
    with pytest.raises(InputError, match="batches: found none"):
        hessian_traces(model, [], cross_entropy, vectors=2)
    with pytest.raises(InputError, match="no convolution or linear layer"):
        hessian_traces(nn.Sequential(nn.Flatten()), [(x, y)], cross_entropy, vectors=2)
    with pytest.raises(
        InputError, match="multi_margin_loss_backward is not implemented, expected functions with a second"
    ):
        hessian_traces(model, [(x, y)], multi_margin_loss, vectors=2)
    with pytest.raises(InputError, match="loss: found nan"):
        hessian_traces(model, [(x * math.nan, y)], cross_entropy, vectors=2)
    with pytest.raises(InputError, match="found 9, expected 2 to 8"):
        sensitivities(model, hessian_traces(model, [(x, y)], cross_entropy, vectors=2), [9])
