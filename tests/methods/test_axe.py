import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.brevitas_linear import rounded_by_brevitas
from quant.networks import Classifier, Larger, Pyramid, images, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.certificate import certify
from oaq_repro.methods.axe import AXE, codes
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.bounds import parts
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import QParams

POLICIES = [
    Accumulator(12),
    Accumulator(12, block=8),
    Accumulator(13, lanes=4),
    NAMED["pair_saturating"],
    Accumulator(32),
]


def constants(zero_point, q_max):
    return QParams(torch.tensor(1.0), torch.tensor(float(zero_point)), torch.tensor(float(q_max)))


def projected_fall(magnitudes, radius):
    """Duchi et al. 2008: the threshold of the projection on the L1 ball, by sorting."""
    if sum(magnitudes) <= radius:
        return 0.0
    falling = sorted(magnitudes, reverse=True)
    return max((sum(falling[:n]) - radius) / n for n in range(1, len(falling) + 1))


def rounded(rows, moments, part, low, high, limit, largest, damping, compensate):
    """The paper's greedy step, channel by channel and input by input, by solving for each update from H itself.

    OPTQ's update of the inputs that are left, once input k has the error e, is `-e * H_F^-1[:, 0] / H_F^-1[0, 0]`, H_F
    the damped moments of the inputs k and later.
    """
    depth = len(moments)
    damped = moments + damping * np.trace(moments) / depth * np.eye(depth)
    found = np.zeros_like(rows)
    for channel, row in enumerate(rows):
        row = row.copy()
        falls = []
        for number in range(part.max() + 1):
            own = row[part == number]
            falls.append(projected_fall(abs(own - own.mean()), 2 * limit / (high - low)))
        for k in range(depth):
            before = found[channel, :k][part[:k] == part[k]]
            wanted = row[k]
            kept = math.copysign(max(abs(wanted) - falls[part[k]], 0.0), wanted)
            chosen = min(range(-largest, largest + 1), key=lambda c: abs(c - kept))
            while chosen:  # towards zero until no input can overflow with it
                all_codes = np.append(before, chosen)
                worst = np.where(all_codes > 0, high, low) @ all_codes, np.where(all_codes > 0, low, high) @ all_codes
                if worst[0] <= limit and worst[1] >= -limit:
                    break
                chosen -= int(math.copysign(1, chosen))
            found[channel, k] = chosen
            clamped = chosen if abs(chosen) < abs(round(kept)) else kept
            error = (wanted if compensate == "all" else clamped) - chosen
            inverse = np.linalg.inv(damped[k:, k:])
            row[k:] -= error * inverse[:, 0] / inverse[0, 0]
    return found


@pytest.mark.parametrize("compensate", ["all", "rounding"])
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 255), st.sampled_from([8, 10, 12]), st.sampled_from([None, 3, 4]))
def test_codes_are_those_of_the_formulas(compensate, seed, zero_point, bits, block):
    generator = np.random.default_rng(seed)
    rows = generator.normal(0, 20, (2, 9))
    seen = generator.integers(0, 256, (40, 9)) - zero_point
    moments = (seen.T @ seen).astype(float)
    accumulator = Accumulator(bits, block=block)
    part = np.zeros(9, int) if block is None else np.arange(9) // block
    x, method = constants(zero_point, 255), AXE(compensate=compensate)
    ours = codes(
        torch.from_numpy(rows), torch.from_numpy(moments)[None], torch.from_numpy(part), x, accumulator, 127, method
    )
    low, high = -zero_point, 255 - zero_point
    assert np.array_equal(
        ours.numpy(), rounded(rows, moments, part, low, high, accumulator.maximum, 127, 0.01, compensate)
    )


@pytest.mark.parametrize("bits, tile", [(12, 8), (14, 24), (16, 12)])
def test_it_is_brevitas_where_only_rounding_is_made_up_for(bits, tile):
    pytest.importorskip("brevitas")
    axe = pytest.importorskip("brevitas_examples.common.axe")
    limits = {"max_accumulator_bit_width": bits, "max_accumulator_tile_size": tile}
    steps, seen, theirs = rounded_by_brevitas(8, axe.a2gptq_mode, act_order=False, **limits)
    accumulator = Accumulator(bits, block=tile)
    moments = (seen.T @ seen).double()[None]
    part = parts(steps, accumulator)
    ours = codes(steps, moments, part, constants(0, 255), accumulator, 127, AXE(compensate="rounding"))
    assert torch.equal(ours, theirs)
    assert 0 < ours.abs().sum() < steps.abs().sum()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("network", [Classifier, Pyramid, Larger])
def test_every_layer_is_certified_and_its_codes_are_kept(network, policy):
    model = quantized(trained(network()), AXE())
    for layer in layers(model).values():
        layer.accumulator = policy
    AXE().finish(model, lambda: [images()])
    graph = lower(model)
    assert all(certify(layer, graph.qparams(layer.inputs[0])).certified for layer in graph.layers())
    assert all(layer.weight.any() for layer in graph.layers())
    for node, layer in zip(graph.layers(), layers(model).values(), strict=True):
        steps = layer.weight.detach().numpy() / node.weight_scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
        assert np.allclose(steps, node.weight.reshape(steps.shape), atol=1e-3)


def test_errors_that_are_spread_come_nearer_to_the_float_outputs():
    """At 4 bits, on an accumulator that holds everything: OPTQ against rounding to nearest."""
    network, x = trained(Pyramid()), images(16)
    errors = []
    for method in (Int8(), AXE()):
        model = quantized(network, method, accumulator="int32", weight_bits=4, batches=[x])
        method.finish(model, lambda: [x])
        with torch.no_grad():
            errors.append(sum((a - b).square().sum() for a, b in zip(model(x), network(x), strict=True)).item())
    assert errors[1] < 0.8 * errors[0]


def test_scales_are_those_of_least_error():
    """A filter of nine large weights: at the scale of its range the register holds half of their norm."""
    errors, x = {}, images(16)
    for start in ("range", "error"):
        network = trained(Classifier())
        model = quantized(network, AXE(), batches=[x])
        AXE(scale_start=start).finish(model, lambda: [x])
        factors = torch.cat([layer.weight_quantizer.alpha for layer in layers(model).values()])
        assert (factors == 1).all() == (start == "range")
        assert all(certify(node, lower(model).qparams(node.inputs[0])).certified for node in lower(model).layers())
        with torch.no_grad():
            errors[start] = (model(x) - network(x)).square().sum().item()
    assert errors["error"] < 0.5 * errors["range"]
