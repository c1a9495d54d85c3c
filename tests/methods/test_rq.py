import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained
from scipy.stats import logistic

from oaq_repro.errors import InputError
from oaq_repro.methods.rq import RQ, draw, logits
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.settings.schema import build


@settings(max_examples=50, deadline=None)
@given(st.integers(-128, 127), st.floats(0.01, 0.99), st.floats(0.1, 1.0))
def test_probabilities_are_those_of_logistic_noise(whole, part, sigma):
    x = torch.tensor([whole + part], dtype=torch.float64)
    points, scores = logits(x, torch.tensor(sigma, dtype=torch.float64))
    assert points[0].tolist() == [whole - 1, whole, whole + 1, whole + 2]
    noise = logistic(loc=whole + part, scale=sigma)
    expected = [noise.cdf(g + 0.5) - noise.cdf(g - 0.5) for g in points[0].tolist()]
    assert scores.exp()[0].tolist() == pytest.approx(expected, abs=2e-6)


def test_points_are_drawn_as_often_as_they_are_probable():
    torch.manual_seed(0)
    x, sigma = torch.full((40_000,), 3.2), torch.tensor(0.4)
    found = draw(x, sigma, 1.0)
    points, scores = logits(x[:1], sigma)
    expected = torch.softmax(scores[0], 0)
    shares = torch.stack([(found == point).float().mean() for point in points[0]])
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)


def test_the_gradient_is_that_of_the_relaxation():
    x, sigma = torch.tensor([0.3, -4.4, 90.9], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    torch.manual_seed(1)
    draw(x, sigma, 0.7).sum().backward()
    torch.manual_seed(1)
    gumbel = -torch.empty(3, 4).exponential_().log()
    y, s = x.detach().clone().requires_grad_(), sigma.detach().clone().requires_grad_()
    total = torch.zeros(())
    for value, noise in zip(y, gumbel, strict=True):
        points = math.floor(value.item()) + torch.arange(-1.0, 3.0)
        p = ((points + 0.5 - value) / s).sigmoid() - ((points - 0.5 - value) / s).sigmoid()
        total = total + (torch.softmax((p.log() + noise) / 0.7, 0) * points).sum()
    total.backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(sigma.grad, s.grad, rtol=1e-3, atol=1e-3)


def test_training_draws_integers_and_evaluation_is_int8():
    parent = trained(Classifier())
    model, plain = quantized(parent, RQ()), quantized(parent)
    assert torch.equal(model(images()), plain(images()))
    layer, x = layers(model.train())["expand.0"], input_qparams(model, "expand.0")
    first, second = (layer.quantized_weight(x)[0].detach() for _ in range(2))
    assert torch.equal(first, first.round()) and first.abs().max() <= 127 and not torch.equal(first, second)
    model(images()).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_bad_temperature():
    with pytest.raises(InputError, match="method.temperature: found 0"):
        build("method", {"kind": "rq", "temperature": 0})
