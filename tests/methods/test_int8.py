"""Stochastic rounding: its mean, its bounds, its gradient, and that only training draws."""

import pytest
import torch
from composing import settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8, StochasticWeight, round_stochastically
from oaq_repro.quant.network import input_qparams, layers
from oaq_repro.quant.numerics import QParams, rowwise
from oaq_repro.settings.schema import check

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = torch.ones(())


@settings(max_examples=30, deadline=None)
@given(st.floats(-100, 100, width=32), st.integers(0, 2**31))
def test_values_are_drawn_from_their_neighbours_with_the_value_as_mean(value, seed):
    torch.manual_seed(seed)
    x = torch.full((4000,), value, requires_grad=True)
    found = round_stochastically(x)
    assert set(found.tolist()) <= {float(x[0].detach().floor()), float(x[0].detach().ceil())}
    assert float(found.detach().mean()) == pytest.approx(value, abs=6 * 0.5 / 4000**0.5)
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones(4000))


def test_codes_stay_within_the_range_under_factors():
    weight = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    quantizer = StochasticWeight(4, True)
    quantizer.attach(weight)
    quantizer.alpha.copy_(torch.linspace(1, 3, 8))
    for _ in range(20):
        codes, _ = quantizer(weight, torch.zeros(8), QParams(ONE, 0 * ONE, 255 * ONE), NAMED["int16"])
        assert bool((codes.abs().amax(1) <= torch.round(7 / quantizer.alpha)).all())


def test_training_draws_weights_and_activations_and_evaluation_rounds():
    dense = trained(Classifier())
    drawn, plain = (quantized(dense, Int8(rounding=r)) for r in ("stochastic", "nearest"))
    x = images()
    with torch.no_grad():
        assert torch.equal(drawn.eval()(x), plain.eval()(x))
        assert not torch.equal(drawn.train()(x), drawn(x))
    for name, layer in layers(drawn).items():
        (first, scale), (second, _) = (layer.quantized_weight(input_qparams(drawn, name)) for _ in range(2))
        assert not torch.equal(first, second)
        assert (first - layer.weight / rowwise(scale, first)).abs().max() < 1


def test_without_a_training_nothing_would_be_drawn():
    with pytest.raises(InputError, match=r"method\.rounding, fine_tune: found stochastic and false"):
        check(settings_of("method=ptq_int8", "method.rounding=stochastic"))
