"""Certificates are exact: reached by some input, exceeded by none."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import reference
from oracles.reference import around, conv, linear, q

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.graph import Add
from oaq_repro.integer.reference import Reference

BITS, OVERFLOW = st.integers(8, 17), st.sampled_from(["wrap", "saturate"])
POLICIES = st.one_of(
    st.builds(Accumulator, bits=BITS, overflow=OVERFLOW, lanes=st.integers(1, 4)),
    st.builds(Accumulator, bits=BITS, overflow=OVERFLOW, block=st.integers(1, 7)),
)
WEIGHTS = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(st.integers(-128, 127), min_size=k, max_size=k), min_size=1, max_size=3)
)


def layer(weights, accumulator):
    return linear("fc", "x", q(), q(), weights, accumulator=accumulator)


@st.composite
def ranges(draw):
    q_max = draw(st.sampled_from([1, 2, 63, 127, 255]))
    return draw(st.integers(0, q_max)), q_max


@settings(max_examples=200, deadline=None)
@given(WEIGHTS, POLICIES, ranges(), st.data())
def test_bound_is_reached_and_never_exceeded(weights, policy, code_range, data):
    """All inputs at the ends of the range (they hold the extremes) and some from inside it."""
    z, q_max = code_range
    certificate = certify(layer(weights, policy), q(1.0, z, q_max))
    depth = len(weights[0])
    inside = data.draw(st.lists(st.lists(st.integers(0, q_max), min_size=depth, max_size=depth), max_size=5))
    lowest = highest = 0
    event = False
    for codes in [*itertools.product((0, q_max), repeat=depth), *inside]:
        for row in weights:
            _, overflow, low, high = reference.accumulate(list(codes), row, z, policy)
            lowest, highest, event = min(lowest, low), max(highest, high), event or overflow
    assert (certificate.lower, certificate.upper) == (lowest, highest)
    assert certificate.certified is not event
    assert certificate.worst_case == max(highest / policy.maximum, lowest / policy.minimum)
    assert certificate.accumulator == policy and certificate.name == "fc"


def safe(row, z, q_max, bits, overflow, block) -> bool:
    """Whether aligned blocks of one output can never overflow, by the extremes of each block."""
    policy = Accumulator(bits=bits, overflow=overflow, block=block)
    worst = [
        reference.accumulate(codes, row, z, policy)[1]
        for codes in ([q_max if w > 0 else 0 for w in row], [q_max if w < 0 else 0 for w in row])
    ]
    return not any(worst)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 24).flatmap(
        lambda k: st.lists(st.lists(st.integers(-128, 127), min_size=k, max_size=k), min_size=1, max_size=3)
    ),
    st.sampled_from([8, 12, 16]),
    st.sampled_from(["wrap", "saturate"]),
    ranges(),
)
def test_longest_block(weights, bits, overflow, code_range):
    z, q_max = code_range
    certificate = certify(layer(weights, Accumulator(bits=bits, overflow=overflow)), q(1.0, z, q_max))
    fits = {b: [safe(row, z, q_max, bits, overflow, b) for row in weights] for b in range(1, len(weights[0]) + 1)}
    assert certificate.block_bits == bits
    assert certificate.longest_block == max((b for b, rows in fits.items() if all(rows)), default=0)
    alone = [max((b for b, rows in fits.items() if rows[i]), default=0) for i in range(len(weights))]
    assert certificate.longest_block_per_channel.tolist() == alone


def test_longest_block_need_not_be_safe_when_shortened():
    """Blocks of 3 cut the heavy run in two, blocks of 2 hold it."""
    weights = [[0, 0, 127, 127, 0, 0]]
    certificate = certify(layer(weights, Accumulator(bits=16, block=2)), q(q_max=255))
    assert not certificate.certified and certificate.longest_block == 3


@pytest.mark.parametrize(
    "weights, q_max, lower, upper",
    [([127, 24, 0], 217, 0, 32767), ([127, 127, 2], 128, 0, 32768), ([-128, -128], 128, -32768, 0),
     ([-128, -128, -75], 99, -32769, 0)],
)  # fmt: skip
def test_at_the_bound_and_one_beyond(weights, q_max, lower, upper):
    certificate = certify(layer([weights], NAMED["int16"]), q(q_max=q_max))
    assert (certificate.lower, certificate.upper) == (lower, upper)
    assert certificate.certified is (upper <= 32767 and lower >= -32768)
    assert (certificate.longest_block == len(weights)) is certificate.certified
    assert (certificate.worst_case <= 1) is certificate.certified


def test_zero_point_moves_the_wrapping_bound_only():
    wrap = certify(layer([[100, -50]], NAMED["int16"]), q(zero_point=128))
    assert (wrap.lower, wrap.upper) == (-128 * 100 - 127 * 50, 127 * 100 + 128 * 50)
    raw = certify(layer([[100, -50]], NAMED["pair_saturating"]), q(zero_point=128))
    assert (raw.lower, raw.upper) == (-255 * 50, 255 * 100)


def test_saturating_pairs_are_safe_up_to_code_128():
    weights = [[127, 127], [-128, -128]]
    assert certify(layer(weights, NAMED["pair_saturating"]), q(q_max=128)).certified
    assert not certify(layer(weights, NAMED["pair_saturating"]), q(q_max=130)).certified


def test_32_bit_layers_are_asked_for_16_bit_blocks():
    certificate = certify(layer([[127] * 8], NAMED["int32"]), q())
    assert certificate.certified and certificate.block_bits == 16 and certificate.longest_block == 1
    other = certify(layer([[127] * 8], NAMED["int32"]), q(), accumulator=Accumulator(bits=17))
    assert other.accumulator.bits == other.block_bits == 17 and other.longest_block == 2


def test_lanes_beyond_the_products():
    certificate = certify(layer([[127, -128]], Accumulator(bits=16, lanes=10**9)), q())
    assert (certificate.lower, certificate.upper) == (-128 * 255, 127 * 255) and certificate.certified


@pytest.mark.parametrize("policy", [NAMED["int16"], NAMED["int16_lanes8"], Accumulator(bits=16, block=5)])
@pytest.mark.parametrize("groups", [1, 6])
def test_convolution_reaches_its_bound_in_the_executor(policy, groups):
    """An image made of the worst window: the executor's peak is the certificate's, neither more nor less."""
    rng = np.random.default_rng(groups)
    weight = rng.integers(-127, 128, (6, 6 // groups, 3, 3))
    source = q(1.0, 40, 200)
    node = conv("conv", "x", source, q(100.0), weight, groups=groups, padding=(1, 1), accumulator=policy)
    certificate = certify(node, source)
    executor = Reference(around(node, source=source))
    peaks = []
    for row, sign in itertools.product(range(6), (1, -1)):
        window = np.where(np.sign(weight[row]) == sign, 200, 0)
        full = np.full((1, 6, 3, 3), 40)
        first = row // (6 // groups) * (6 // groups)
        full[0, first : first + 6 // groups] = window
        peaks.append(executor.run((full - 40).astype(np.float32)).peak["conv"])
    assert max(peaks) == certificate.worst_case
    random = executor.run(rng.uniform(-40, 160, (3, 6, 9, 9)).astype(np.float32))
    assert random.peak["conv"] <= certificate.worst_case


def test_only_layers_have_certificates():
    with pytest.raises(InputError, match="Add"):
        certify(Add("sum", ("a", "b"), q()), q())
