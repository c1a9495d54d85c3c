import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Pyramid, images, quantized, trained

from oaq_repro.errors import InputError
from oaq_repro.methods.dsq import DSQ, soft_round
from oaq_repro.settings.schema import build


def curve(x, a):
    """Equations 4 to 9 of the paper with a step of 1, in plain numbers."""
    i = math.floor(x)
    k = math.log(2 / a - 1)
    s = 1 / math.tanh(0.5 * k)
    phi = s * math.tanh(k * (x - (i + 0.5)))
    return i + (phi + 1) / 2


@settings(max_examples=100, deadline=None)
@given(st.integers(-128, 127), st.floats(0.02, 0.98), st.floats(0.01, 0.49))
def test_forward_rounds_and_backward_differentiates_the_papers_curve(whole, part, a):
    x = torch.tensor(whole + part, dtype=torch.float64, requires_grad=True)
    softness = torch.tensor(a, dtype=torch.float64, requires_grad=True)
    found = soft_round(x, softness)
    assert float(found.detach()) == round(whole + part)
    found.backward()
    h = 1e-6
    assert float(x.grad) == pytest.approx((curve(x.item() + h, a) - curve(x.item() - h, a)) / (2 * h), rel=1e-4)
    slope = (curve(x.item(), a + h) - curve(x.item(), a - h)) / (2 * h)
    assert float(softness.grad) == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_the_distance_is_that_from_a_true_step():
    """At the ends of a step the unscaled tanh misses the step by a: the definition of a."""
    for a in (0.05, 0.2, 0.4):
        assert 1 - math.tanh(0.5 * math.log(2 / a - 1)) == pytest.approx(a)


@pytest.mark.parametrize("network", [Classifier, Pyramid])
def test_codes_are_those_of_int8(network):
    parent = trained(network())
    soft, plain = quantized(parent, DSQ()), quantized(parent)
    with torch.no_grad():
        found, expected = soft(2 * images()), plain(2 * images())
    if isinstance(found, torch.Tensor):
        found, expected = (found,), (expected,)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_every_parameter_gets_a_gradient():
    model = quantized(trained(Classifier()), DSQ()).train()
    model(images()).square().mean().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    assert sum(name.endswith("softness") for name in gradients) == 13


def test_bad_softness():
    with pytest.raises(InputError, match="method.softness: found 0.5"):
        build("method", {"kind": "dsq", "softness": 0.5})
