"""Codebooks against their formulas, written out in fractions; codes against a search through all entries."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from composing import built, settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, Pyramid, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.codebook import BITS, CodebookMethod, CodebookWeight, centres, power_magnitudes
from oaq_repro.quant.calibration.calibrate import freeze
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.mixed_precision.cost import layer_costs, network_cost
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.settings.schema import check

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = torch.ones(())
X = QParams(ONE, 0 * ONE, 255 * ONE)
HALF = Fraction(1, 2)
POWERS = {  # in units of the largest, as in the papers
    ("pot", 2): {Fraction(1)},
    ("pot", 3): {HALF**e for e in range(3)},
    ("pot", 4): {HALF**e for e in range(7)},
    ("apot", 3): {HALF**e for e in range(3)},
    ("apot", 4): {Fraction(n, 10) for n in (1, 2, 3, 4, 6, 8, 10)},
    # the paper's set of 4 bits without a sign: p_0 of {0, 1, 1/4, 1/16}, p_1 of {0, 1/2, 1/8, 1/32}
    ("apot", 5): {
        (a + b) / Fraction(3, 2)
        for a, b in product((0, *(HALF**e for e in (0, 2, 4))), (0, *(HALF**e for e in (1, 3, 5))))
        if a + b
    },
    ("apot", 6): {
        (a + b + c) / (HALF + HALF**2 + HALF**5)
        for a, b, c in product(
            (0, *(HALF**e for e in (1, 3, 6))), (0, *(HALF**e for e in (2, 4, 7))), (0, HALF**5)
        )
        if a + b + c
    },
}  # fmt: skip
VALID = [(codebook, bits) for codebook, (least, most) in BITS.items() for bits in range(least, most + 1)]


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(codebook, bits, weight, alpha=None, per_channel=True):
    """Quantizer, codes [O, K] and scale [O]."""
    quantizer = CodebookWeight(bits, per_channel, codebook)
    quantizer.attach(weight)
    if alpha is not None:
        quantizer.alpha.copy_(alpha)
    codes, scale = quantizer(weight, torch.zeros(len(weight)), X, NAMED["int32"])
    return quantizer, codes.flatten(1).detach().double().numpy(), scale.double().numpy()


@pytest.mark.parametrize(("codebook", "bits"), POWERS)
def test_powers_are_those_of_the_papers_and_fit_int8(codebook, bits):
    magnitudes = power_magnitudes(codebook, bits)
    assert magnitudes[0] == 0 and magnitudes[-1] <= 127 and len(magnitudes) == 2 ** (bits - 1)
    assert {Fraction(m, magnitudes[-1]) for m in magnitudes[1:]} == POWERS[codebook, bits]
    assert np.gcd.reduce(magnitudes) == 1  # no smaller integers have these ratios


@pytest.mark.parametrize("codebook", BITS)
def test_codebooks_that_int8_does_not_hold_are_refused(codebook):
    least, most = BITS[codebook]
    for bits in {least - 1, most + 1} & set(range(2, 9)):
        with pytest.raises(
            InputError, match=f"weight_bits: found {bits}, expected {least} to {most} with method.codebook={codebook}"
        ):
            CodebookWeight(bits, True, codebook)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31), st.sampled_from(VALID), st.integers(1, 9), st.booleans(),
    st.lists(st.floats(1, 20), min_size=4, max_size=4),
)  # fmt: skip
def test_codes_are_the_nearest_entries(seed, valid, depth, per_channel, alphas):
    """Also under range mapping factors, which divide the entries, and in rows of odd length."""
    codebook, bits = valid
    weight = drawn(seed, 4, depth) * torch.tensor([1.0, 0.1, 10.0, 3.0])[:, None]
    alpha = torch.tensor(alphas) if per_channel else torch.full((4,), alphas[0])
    quantizer, codes, scale = made(codebook, bits, weight, alpha, per_channel)
    steps = (weight / torch.from_numpy(scale).float()[:, None]).double().numpy()
    for row, found, factor in zip(steps, codes, alpha.numpy(), strict=True):
        entries = np.round(quantizer.entries.numpy() / factor).astype(float)
        if codebook == "pairs":
            padded = np.append(row, [0.0] * (depth % 2)).reshape(-1, 2)
            for number, pair in enumerate(padded):
                away = np.square(pair - entries).sum(1)
                chosen = found[2 * number : 2 * number + 2]  # of an odd row's last pair the first number alone
                fits = (entries[:, : len(chosen)] == chosen).all(1)
                assert away[fits].min() <= away.min() * (1 + 1e-4) + 1e-4
        else:
            away = np.abs(row[:, None] - entries[None])
            assert np.all(np.abs(row - found) <= away.min(1) + 1e-4)
            assert set(found) <= set(entries)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_centres_are_means_of_what_is_nearest_to_them(seed, bits):
    points = drawn(seed, 400, 1).double().numpy()
    found = centres(points, 2**bits).ravel()
    assert np.all(np.diff(found) >= 0)
    nearest = np.abs(points - found[None]).argmin(1)
    means = [points[nearest == k].mean() for k in range(len(found)) if (nearest == k).any()]
    np.testing.assert_allclose(means, found[[k for k in range(len(found)) if (nearest == k).any()]], atol=1e-6)


def test_few_different_weights_are_their_own_centres():
    for codebook in ("kmeans", "pairs"):
        weight = torch.tensor([[1.0, -1.0, 0.5, 0.5], [2.0, -2.0, 1.0, 1.0]])
        quantizer, codes, scale = made(codebook, 3, weight)
        np.testing.assert_allclose(codes * scale[:, None], weight.numpy(), atol=float(scale.max()))
        assert len(quantizer.entries) == (64 if codebook == "pairs" else 8)
    _, codes, _ = made("kmeans", 4, torch.zeros(3, 5))
    assert not codes.any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31))
def test_fitted_codebooks_have_less_error_than_a_uniform_grid_of_as_many_bits(seed):
    weight = drawn(seed, 16, 64)
    limit = 2**3 - 1
    scale = weight.abs().amax(1, keepdim=True) / limit
    uniform = float(((weight / scale).round() * scale - weight).square().sum())
    for codebook in ("kmeans", "pairs"):
        _, codes, scale = made(codebook, 4, weight)
        assert np.square(codes * scale[:, None] - weight.double().numpy()).sum() < uniform


def test_the_gradient_passes_straight_through_and_codes_stay_whole():
    weight = drawn(0, 4, 10).requires_grad_()
    quantizer = CodebookWeight(4, True, "pot")
    quantizer.attach(weight)
    codes, scale = quantizer(weight, torch.zeros(4), X, NAMED["int32"])
    assert torch.equal(codes, codes.round())
    (gradient,) = torch.autograd.grad((codes * scale[:, None]).sum(), weight)
    torch.testing.assert_close(gradient, torch.ones(4, 10))


@pytest.mark.parametrize(
    ("codebook", "bits"), [("pot", 3), ("pot", 4), ("apot", 4), ("apot", 6), ("pairs", 2), ("kmeans", 3)]
)
@pytest.mark.parametrize("requantization", ["float32", "fixed16"])
def test_integers_are_the_simulation_before_and_after_settling(codebook, bits, requantization):
    """As `test_every_method` has it for the usual codebook."""
    for network in (Classifier, Pyramid):
        model = quantized(
            trained(network()), CodebookMethod(codebook=codebook), accumulator="int16", weight_bits=bits,
            requantization=requantization,
        )  # fmt: skip
        freeze(model.eval())
        for alpha_moves in (False, True):
            if alpha_moves:
                for layer in layers(model).values():
                    layer.accumulator = NAMED["int16"].with_bits(13)
                settle(model, lambda: [images()], SettleConfig())
            x = images()
            run = Reference(lower(model).with_accumulator(NAMED["int32"])).run(x.numpy())
            with torch.no_grad():
                expected = model(x)
            for found, wanted in zip(run.outputs, [expected] if torch.is_tensor(expected) else expected, strict=True):
                assert np.array_equal(found, wanted.numpy())


def test_the_cost_counts_codes_codebooks_and_the_integers_that_are_multiplied():
    parent = trained(Classifier())
    uniform = network_cost(layer_costs(quantized(parent, weight_bits=4), (3, 16, 16)))
    weights, tables = int(uniform.weight_bytes * 2), len(layers(quantized(parent)))
    for codebook, grid, table in (("pot", 8, 0), ("apot", 5, 0), ("kmeans", 8, 16), ("pairs", 8, 512)):
        model = quantized(parent, CodebookMethod(codebook=codebook), weight_bits=4)
        cost = network_cost(layer_costs(model, (3, 16, 16)))
        assert cost.weight_bytes == weights / 2 + tables * table
        assert cost.bops == uniform.bops * grid // 4


def test_bits_are_searched_for_on_uniform_grids_only():
    assert built("method", "method=codebook", "method.codebook=apot") == CodebookMethod(
        fine_tune=False, codebook="apot"
    )
    with pytest.raises(InputError, match=r"method\.search: no such field"):
        check(settings_of("method=codebook", "+method.search={widths: [2, 4]}"))
