"""Ranges against searches and formulas that are written out independently."""

import numpy as np
import pytest
import torch
from composing import read_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.checked_engine import Simulation
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.reference import Reference
from oaq_repro.quant.calibration.calibrate import freeze
from oaq_repro.quant.network import without_integer_form
from oaq_repro.quant.observers import RANGES, ObserverConfig, symmetric_range
from oaq_repro.quant.quantizers import ActivationQuantizer

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = torch.ones(())


def error(real, low, high, bits):
    """Squared error of quantizing real numbers in the range [low, high], zero included, in float64."""
    low, high, largest = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = max((high - low) / largest, 1e-12)
    zero = round(-low / scale)
    codes = np.clip(np.rint(real / scale) + zero, 0, largest)
    return np.square((codes - zero) * scale - real).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.sampled_from(["none", "relu", "relu6"]), st.floats(0.1, 10.0))
def test_mse_takes_the_best_of_the_shrunken_ranges(seed, bits, activation, spread):
    generator = torch.Generator().manual_seed(seed)
    values = spread * torch.randn(2, 3, 50, generator=generator) * torch.rand(2, 3, 50, generator=generator)
    quantizer = ActivationQuantizer(bits, activation, ObserverConfig(kind="mse"))
    quantizer.observe(values, ONE)
    real = {"none": values, "relu": values.relu(), "relu6": values.clamp(0, 6)}[activation].double().numpy().ravel()
    tried = [error(real, f * real.min(), f * real.max(), bits) for f in np.arange(1, RANGES + 1) / RANGES]
    assert error(real, float(quantizer.low), float(quantizer.high), bits) <= min(tried) * 1.01 + 1e-6


def test_mse_gives_outliers_up_where_bits_are_few():
    values = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([8.0])])
    few, many = (ActivationQuantizer(bits, "none", ObserverConfig(kind="mse")) for bits in (3, 8))
    few.observe(values, ONE)
    many.observe(values, ONE)
    assert few.high < 5 and many.high > 7


def test_mse_of_a_large_tensor_is_not_that_of_some_of_its_columns():
    """Images whose columns at even distances are blank, as borders are."""
    values = torch.randn(64, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    values[..., ::2] = 0.0
    quantizer = ActivationQuantizer(4, "relu", ObserverConfig(kind="mse"))
    quantizer.observe(values, ONE)
    real = values.relu().double().numpy().ravel()
    tried = [error(real, 0.0, f * real.max(), 4) for f in np.arange(1, RANGES + 1) / RANGES]
    assert error(real, float(quantizer.low), float(quantizer.high), 4) <= min(tried) * 1.02


def test_mse_of_sums_by_channel_is_that_of_real_values():
    sums, scale = torch.tensor([[[[10.0]], [[-4.0]]]]), torch.tensor([0.1, 2.0])
    quantizer = ActivationQuantizer(8, "none", ObserverConfig(kind="mse"))
    quantizer.observe(sums, scale)
    assert (float(quantizer.low), float(quantizer.high)) == pytest.approx((-8.0, 1.0), rel=0.05)


@settings(max_examples=200)
@given(st.floats(-100, -0.125, width=32), st.floats(-50, 100, width=32), st.integers(2, 8))
def test_a_symmetric_range_has_zero_in_the_middle_of_the_codes(low, high, bits):
    """As signed integers of b bits with the scale m / (2^(b - 1) - 1)."""
    high = max(high, low)
    config = ObserverConfig(symmetric=True)
    found = config.parameters(torch.tensor(low), torch.tensor(high), bits, ONE)
    assert float(found.zero_point) == 2 ** (bits - 1) and float(found.q_max) == 2**bits - 1
    assert float(found.scale) == pytest.approx(max(-low, high) / (2 ** (bits - 1) - 1), rel=1e-5)


def test_a_rectified_range_stays_as_it_is():
    low, high = symmetric_range(torch.tensor([0.0, 0.5]), torch.tensor([3.0, 3.0]), 8)
    assert low.tolist() == [0.0, 0.5] and high.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("observer", [{"symmetric": True}, {"kind": "mse"}, {"kind": "mse", "symmetric": True}])
@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
def test_integers_are_the_simulation(network, observer, bits):
    model = quantized(trained(network()), activation_bits=bits, observer=ObserverConfig(**observer))
    freeze(model.eval())
    graph = lower(model)
    if observer.get("symmetric"):
        centred = [node.output.zero_point for node in graph.nodes if hasattr(node, "output")]
        assert set(centred) == {0, 2 ** (bits - 1)}
    x = 2 * images(3, 18, seed=4)
    run = Reference(graph.with_accumulator(NAMED["int32"])).run(x.numpy())
    with torch.no_grad():
        expected = model(x)
    for found, wanted in zip(run.outputs, [expected] if torch.is_tensor(expected) else expected, strict=True):
        assert np.array_equal(found, wanted.numpy())


@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
def test_dynamic_ranges_are_those_of_what_is_quantized(network):
    """A network calibrated on images that are far too dark answers as one calibrated on each image itself."""
    dense, x = trained(network()), 2 * images(3, 16, seed=4)
    found = quantized(dense, batches=[0.01 * images()], observer=ObserverConfig(kind="dynamic"))
    freeze(found.eval())
    with torch.no_grad():
        outputs = Simulation(found)(x)
        exact = dense(x)
    for got, wanted in zip(_tuple(outputs), _tuple(exact), strict=True):
        assert (got - wanted).abs().max() < 0.1 * wanted.abs().max()
        static = quantized(dense, batches=[0.01 * images()])
        freeze(static.eval())
    with torch.no_grad():
        far = _tuple(static(x))[0]
    assert (far - _tuple(exact)[0]).abs().max() > 0.5 * _tuple(exact)[0].abs().max()


def test_with_dynamic_ranges_an_image_does_not_depend_on_its_neighbours():
    found = quantized(trained(Classifier()), observer=ObserverConfig(kind="dynamic"))
    freeze(found.eval())
    x = images(3, 16, seed=4) * torch.tensor([1.0, 5.0, 0.2]).reshape(-1, 1, 1, 1)
    together, alone = Simulation(found)(x), torch.cat([Simulation(found)(image) for image in x.split(1)])
    assert torch.equal(together, alone)
    with torch.no_grad():
        assert not torch.equal(found(x), together)  # one range for all three


def test_dynamic_ranges_have_no_integer_form_and_it_is_said():
    found = quantized(trained(Classifier()), observer=ObserverConfig(kind="dynamic"))
    (reason,) = without_integer_form(found)
    assert reason.startswith("input, stem.0, ") and "quantization.observer.kind=dynamic" in reason
    with pytest.raises(InputError, match="found anew for every image"):
        lower(found)
    assert without_integer_form(quantized(trained(Classifier()))) == []


@pytest.mark.parametrize("requantization", ["dyadic", "fixed16"])
def test_dynamic_ranges_and_integer_requantization(requantization):
    with pytest.raises(
        InputError, match=f"quantization.observer.kind, requantization: found dynamic and {requantization}, expected"
    ):
        read_of("method=ptq_int8", "quantization.observer.kind=dynamic", f"requantization={requantization}")


def _tuple(value):
    return (value,) if torch.is_tensor(value) else tuple(value)
