"""Ratios of scales as integers, against Python's integers and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import requantization as oracle

from oaq_repro.fixed_point import dyadic, dyadic_sum, fixed16, mean_ratio, product_ratio, resize_shares, shifted

ratios = st.one_of(
    st.floats(2.0**-180, 2.0**180),
    st.floats(2.0**-20, 2.0),
    st.builds(lambda e, ulps: float(2.0**e * (1 + ulps * 2.0**-53)), st.integers(-70, 40), st.integers(-3, 3)),
    st.builds(lambda m, s: (m + 0.5) / 2.0**s, st.integers(0, 2**31), st.integers(1, 62)),  # ties of the multiplier
)


@settings(max_examples=1000, deadline=None)
@given(ratios, st.sampled_from([15, 31]))
@example(1 - 2.0**-53, 31)  # rounds up to a power of two
@example(2.0**-1 * (1 - 2.0**-53), 15)
@example(1 - 2.0**-31, 31)
@example(1 - 2.0**-32, 31)
@example(2.0**30, 31)
@example(2.0**30 * (1 - 2.0**-53), 31)
@example(2.0**-32, 31)
@example(2.0**-33 * (1 - 2.0**-53), 31)
@example(2.0**-63, 31)
@example(2.0**-64, 31)
@example(2.0**-16, 15)
@example(2.0**-31 * (1 - 2.0**-53), 15)  # a half, but for the last bit, of the smallest multiplier
@example(2.0**-63 * (1 - 2.0**-53), 31)
def test_dyadic(ratio, bits):
    multiplier, shift = dyadic(ratio, bits)
    assert multiplier.dtype == shift.dtype == np.int64
    assert (int(multiplier), int(shift)) == oracle.dyadic(ratio, bits)


def test_dyadic_of_many():
    found = np.array([[0.3, 2.0**-70], [1e9, 0.99999999999]])
    multiplier, shift = dyadic(found)
    assert multiplier.shape == shift.shape == (2, 2)
    for at in np.ndindex(2, 2):
        assert (multiplier[at], shift[at]) == oracle.dyadic(found[at])


@settings(max_examples=500, deadline=None)
@given(ratios, ratios, st.sampled_from([15, 31]))
def test_dyadic_sum_shares_the_shift_of_the_larger(a, b, bits):
    multipliers, shift = dyadic_sum([a, b], bits)
    _, expected = oracle.dyadic(max(a, b), bits)
    assert shift == expected
    assert multipliers.tolist() == [min(oracle.rounded(Fraction(ratio) * 2**shift), 2**bits - 1) for ratio in (a, b)]


def test_a_sum_of_fixed16_fits_32_bits():
    for ratio in 2.0 ** np.arange(-40, 40, 0.25):
        (a, b), shift = dyadic_sum([ratio, ratio * 0.9], 15)
        assert 255 * int(a) + 255 * int(b) + 2 ** (shift - 1) < 2**31
        assert a < 2**15 and b < 2**15  # int16, as vpmaddwd has them


extremes = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), 2**31 - 1, 0, 1, -1]))


@settings(max_examples=1000, deadline=None)
@given(extremes, st.integers(0, 2**31 - 1), st.integers(1, 62))
@example(-24, 2**30, 34)  # ties
@example(8, 2**30, 34)
@example(40, 2**30, 34)
def test_shifting_rounds_half_up_without_overflow(y, multiplier, shift):
    total = np.array([y], np.int64) * np.int64(multiplier)
    assert shifted(total, shift)[0] == oracle.rounded(Fraction(y * multiplier, 2**shift))
    assert shifted(total, np.array([shift]))[0] == shifted(total, shift)[0]


@pytest.mark.parametrize("m", [1, 2, 3, 1000, 32766, 32767])
def test_fixed16(m):
    assert fixed16(m / 2**15) == m and fixed16([m / 2**15 * (1 + 1e-6)]).tolist() == [m]


@settings(max_examples=300, deadline=None)
@given(
    st.floats(2.0**-60, 2.0**60, width=32),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.floats(2.0**-30, 2.0**30, width=32),
)
def test_ratios(a, b, output):
    a, b, output = np.float32(a), np.float32(b), np.float32(output)
    product = np.float32(float(a) * float(b))  # exact before it is rounded
    assert product_ratio(a, np.array([b]), output)[0] == float(product) / float(output)
    assert mean_ratio(a, output, 49) == float(a) / (float(output) * 49)


def test_shares_of_a_pixel_add_up():
    t = np.array([0, 0.25, 0.5, 1 / 3, 1 - 2.0**-24, 2.0**-12, 2.0**-13], np.float32)
    first, second = resize_shares(t)
    assert second.tolist() == [0, 512, 1024, 683, 2048, 1, 0]
    assert (first + second).tolist() == [2048] * len(t)
