import pytest
import torch

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import ActivationQuantizer, WeightQuantizer
from oaq_repro.settings.schema import build_part


def quantizer(activation="none", **observer):
    return ActivationQuantizer(8, activation, ObserverConfig(**observer)).train()


ONE = torch.ones(())


def test_the_running_range_starts_as_a_mean_and_then_forgets_slowly():
    q = quantizer(momentum=0.5)
    for high in (1.0, 3.0, 4.0):
        q.observe(torch.tensor([-2.0, high]), ONE)
    assert q.high == pytest.approx((1 + 3) / 2 * 0.5 + 4 * 0.5)
    assert q.low == pytest.approx(-2.0)
    assert q.observed == 3


@pytest.mark.parametrize("activation, expected", [("none", (-5, 9)), ("relu", (0, 9)), ("relu6", (0, 6))])
def test_the_activation_bounds_the_range(activation, expected):
    q = quantizer(activation)
    q.observe(torch.tensor([-5.0, 9.0]), ONE)
    assert (q.low, q.high) == expected


def test_percentile_ignores_outliers_and_minmax_does_not():
    values = torch.cat([torch.linspace(-1, 1, 10_000), torch.tensor([50.0])])
    calm, wild = quantizer(kind="percentile", percentile=99.9), quantizer()
    for q in (calm, wild):
        q.observe(values, ONE)
    assert calm.high < 1.01 and wild.high == 50


def test_per_channel_sums_are_observed_as_real_values():
    sums, scale = torch.tensor([[[[10.0]], [[-4.0]]]]), torch.tensor([0.1, 2.0])
    for observer in ({}, {"kind": "percentile", "percentile": 100.0}):
        q = quantizer(**observer)
        q.observe(sums, scale)
        assert (float(q.low), float(q.high)) == pytest.approx((-8.0, 1.0))


def test_a_frozen_or_evaluating_quantizer_does_not_observe():
    q = quantizer()
    q.observe(torch.tensor([-1.0, 1.0]), ONE)
    q.observing = False
    q(torch.tensor([9.0]), ONE)
    q.observing = True
    q.eval()(torch.tensor([9.0]), ONE)
    assert q.high == 1


def test_codes_stay_in_the_shortened_range():
    q = quantizer("relu").eval()
    q.high.fill_(6.0)
    q.alpha.fill_(3.0)
    out = q(torch.linspace(-10, 100, 50), ONE)
    assert out.q_max == 85
    assert out.codes.min() == 0 and out.codes.max() == 85
    assert (out.scale * out.q_max).item() == pytest.approx(6.0, rel=0.01)


@pytest.mark.parametrize(
    "make", [lambda b: ActivationQuantizer(b, "none", ObserverConfig()), lambda b: WeightQuantizer(b, True)]
)
@pytest.mark.parametrize("bits", [1, 9])
def test_bits_that_no_code_holds(make, bits):
    with pytest.raises(InputError, match=f"bits: found {bits}"):
        make(bits)


@pytest.mark.parametrize("fields", [{"kind": "mean"}, {"percentile": 20.0}, {"momentum": 0.0}])
def test_bad_observer_fields(fields):
    with pytest.raises(InputError, match=f"observer.{next(iter(fields))}"):
        build_part(ObserverConfig, fields, "observer")


def test_weight_codes_use_the_whole_range_per_channel():
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 0.1, 10.0, 3.0]).reshape(-1, 1, 1, 1)
    x = QParams(ONE, 0 * ONE, 255 * ONE)
    codes, scale = WeightQuantizer(8, True)(weight, torch.zeros(4), x, NAMED["int16"])
    assert codes.flatten(1).abs().amax(1).tolist() == [127] * 4
    torch.testing.assert_close(codes * scale.reshape(-1, 1, 1, 1), weight, atol=float(scale.max()) / 2, rtol=0)
    codes, scale = WeightQuantizer(8, False)(weight, torch.zeros(4), x, NAMED["int16"])
    assert len(set(scale.tolist())) == 1 and codes.abs().max() == 127
