"""OPTQ: codes by the formula, brevitas as the oracle, and what it does to networks under range mapping factors."""

import numpy as np
import pytest
import torch
from composing import settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.brevitas_linear import rounded_by_brevitas
from quant.networks import Classifier, Gated, Larger, Pyramid, images, quantized, trained

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.optq import codes_one_by_one, round_weights, second_moments
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.network import layers
from oaq_repro.settings.schema import check


def nearest(limit):
    def choose(k, wanted):
        code = wanted.round().clamp(-limit, limit)
        return code, wanted - code

    return choose


def one_by_one(row, moments, limit, damping):
    """The update of the weights that are left, once number k has the error e, solved for from H itself.

    It is `-e * H_F^-1[:, 0] / H_F^-1[0, 0]`, H_F the damped moments of the inputs k and later.
    """
    depth, row = len(row), row.copy()
    damped = moments + damping * np.trace(moments) / depth * np.eye(depth)
    for k in range(depth):
        code = np.clip(np.rint(row[k]), -limit, limit)
        inverse = np.linalg.inv(damped[k:, k:])
        row[k + 1 :] -= (row[k] - code) * inverse[1:, 0] / inverse[0, 0]
        row[k] = code
    return row


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3]), st.sampled_from([3, 15, 127]))
def test_codes_are_those_of_the_formula(seed, groups, limit):
    generator = np.random.default_rng(seed)
    rows = generator.normal(0, limit / 2, (2 * groups, 7))
    seen = generator.integers(-50, 200, (groups, 30, 7)).astype(float)
    moments = seen.transpose(0, 2, 1) @ seen
    ours = codes_one_by_one(torch.from_numpy(rows), torch.from_numpy(moments), 0.01, nearest(limit))
    expected = [one_by_one(row, moments[i // 2], limit, 0.01) for i, row in enumerate(rows)]
    assert np.array_equal(ours.numpy(), expected)


def test_inputs_that_have_nothing_in_common_leave_weights_to_their_nearest_codes():
    rows, moments = torch.tensor([[0.4, 1.6, -2.5]]), torch.diag(torch.tensor([3.0, 0.0, 5.0])).double()[None]
    assert codes_one_by_one(rows, moments, 0.01, nearest(127)).tolist() == [[0.0, 2.0, -2.0]]


def test_it_is_that_of_brevitas():
    gptq = pytest.importorskip("brevitas.graph.gptq")
    steps, seen, theirs = rounded_by_brevitas(4, gptq.gptq_mode)
    ours = codes_one_by_one(steps, (seen.T @ seen).double()[None], 0.01, nearest(7))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, steps.round().double())


def test_moments_are_those_of_the_windows():
    for network in (Classifier, Gated, Larger):
        model, found = quantized(trained(network()), Int8()), {}
        for name, layer in layers(model).items():

            def probe(acc, x, weight, name=name, layer=layer, found=found):
                moments, rows = second_moments(layer, x), weight.flatten(1).double()
                own = rows.reshape(len(moments), -1, rows.shape[1])
                sums = acc.double().square().sum((0, 2, 3)) if acc.dim() == 4 else acc.double().square().sum(0)
                found[name] = torch.allclose(((own @ moments) * own).sum(2).flatten(), sums, rtol=1e-6)

            layer.probe = probe
        with torch.no_grad():
            model(images())
        assert found and all(found.values())


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("network", [Classifier, Pyramid, Larger])
def test_codes_stay_within_the_factors_and_scales_as_they_were(network, granularity):
    x = images(8)
    model = quantized(trained(network()), Int8(fine_tune=False, rounding="optq"), granularity=granularity, batches=[x])
    settle(model, lambda: [x], SettleConfig())
    table = layers(model)
    before = {name: layer.weight_quantizer.scale(layer.weight) for name, layer in table.items()}
    round_weights(model, lambda: [x])
    for name, layer in table.items():
        assert torch.equal(layer.weight_quantizer.scale(layer.weight), before[name])
    for node, layer in zip(lower(model).layers(), table.values(), strict=True):
        steps = layer.weight.detach().flatten(1).numpy() / node.weight_scale[:, None]
        assert np.allclose(steps, node.weight.reshape(steps.shape), atol=1e-3)
        limit = layer.weight_quantizer.largest_codes().expand(len(steps)).numpy()
        assert (abs(node.weight.reshape(steps.shape)).max(1) <= limit).all()


def test_errors_cancel_under_settled_factors():
    """12-bit sums leave the weights few codes: one by one against nearest, both settled, the same factors at first."""
    network, x = trained(Pyramid()), images(16)
    errors = []
    for rounding in ("nearest", "optq"):
        method = Int8(fine_tune=False, rounding=rounding)
        model = quantized(network, method, accumulator="int16", weight_bits=4, batches=[x])
        settle(model, lambda: [x], SettleConfig())
        if method.adapts:
            method.adapt(model, lambda: [x])
        with torch.no_grad():
            errors.append(sum((a - b).square().sum() for a, b in zip(model(x), network(x), strict=True)).item())
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["method=int8", "method.rounding=optq"], r"method\.rounding, fine_tune: found optq and true"),
        (["method=ptq_int8", "method.rounding=optq", "method.pruning={}"], r"rounding, pruning: found optq and one"),
    ],
)
def test_what_it_is_not_for(overrides, message):
    with pytest.raises(InputError, match=message):
        check(settings_of(*overrides))
