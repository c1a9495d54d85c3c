"""The compiled kernel against Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.reference import conv2d as reference

from oaq_repro._kernels import emulate
from oaq_repro.accumulator import NAMED, Accumulator


def fields(policy: Accumulator) -> dict:
    saturate = policy.overflow == "saturate"
    return {"bits": policy.bits, "saturate": saturate, "lanes": policy.lanes, "block": policy.block}


def assert_same(x, weight, z, policy, **geometry):
    acc, events, lowest, highest = emulate(x, weight, z, **geometry, **fields(policy))
    expected = reference(x, weight, z, policy=policy, **geometry)
    assert acc.dtype == np.int32 and events.dtype == np.uint8
    np.testing.assert_array_equal(acc, expected[0])
    np.testing.assert_array_equal(events, expected[1])
    assert (lowest, highest) == expected[2:]


def policies() -> st.SearchStrategy[Accumulator]:
    bits, overflow = st.integers(8, 32), st.sampled_from(["wrap", "saturate"])
    lanes = st.builds(Accumulator, bits=bits, overflow=overflow, lanes=st.integers(1, 20))
    blocks = st.builds(Accumulator, bits=bits, overflow=overflow, block=st.integers(1, 40))
    return st.one_of(lanes, blocks, st.sampled_from(list(NAMED.values())))


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def cases(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3, 17]))
    inputs, outputs = draw(st.integers(1, 1 if groups == 17 else 9)), draw(st.integers(1, 1 if groups == 17 else 5))
    if draw(st.booleans()):
        inputs = outputs = 1  # depthwise where groups > 1
    kernel, dilation = draw(pairs(1, 3)), draw(pairs(1, 2))
    begin, end = draw(pairs(0, 2)), draw(pairs(0, 2))
    least = [max(1, d * (k - 1) + 1 - b - e) for k, d, b, e in zip(kernel, dilation, begin, end, strict=True)]
    height, width = draw(st.integers(least[0], least[0] + 3)), draw(st.integers(least[1], least[1] + 3))
    z = draw(st.sampled_from([0, 1, 128, 255]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x_shape = (draw(st.integers(1, 2)), height, width, groups * inputs)
    w_shape = (groups * outputs, *kernel, inputs)
    if draw(st.booleans()):  # extremes make large sums and sums at the bounds
        x, weight = rng.choice([0, z, 255], x_shape), rng.choice([-128, -127, 0, 127], w_shape)
    else:
        x, weight = rng.integers(0, 256, x_shape), rng.integers(-128, 128, w_shape)
    geometry = {"stride": draw(pairs(1, 3)), "padding": (*begin, *end), "dilation": dilation, "groups": groups}
    return x.astype(np.uint8), weight.astype(np.int8), z, geometry


@settings(max_examples=250, deadline=None)
@given(cases(), policies())
def test_equals_reference(case, policy):
    x, weight, z, geometry = case
    assert_same(x, weight, z, policy, **geometry)


@pytest.mark.parametrize("policy", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("outputs, groups", [(16, 1), (17, 1), (33, 33), (32, 2), (12, 12), (24, 12)])
def test_tile_borders(policy, outputs, groups):
    """Around the number of outputs that the kernel computes together, depthwise or not."""
    rng = np.random.default_rng(outputs)
    channels = groups if groups > 2 else 12
    x = rng.integers(0, 256, (2, 4, 3, channels)).astype(np.uint8)
    weight = rng.integers(-128, 128, (outputs, 3, 3, channels // groups)).astype(np.int8)
    assert_same(x, weight, 7, policy, padding=(1, 1, 1, 1), groups=groups)


def one_output(codes, weights, z=0, **policy):
    """The kernel on a single sum of products."""
    x, weight = np.array(codes, np.uint8).reshape(1, 1, 1, -1), np.array(weights, np.int8).reshape(1, 1, 1, -1)
    acc, events, lowest, highest = emulate(x, weight, z, **policy)
    return int(acc[0, 0, 0, 0]), bool(events[0, 0, 0, 0]), lowest, highest


@pytest.mark.parametrize("last, acc, event", [(1, 32767, False), (2, -32768, True)])
def test_wrap_at_the_upper_bound(last, acc, event):
    codes, weights = [255, 255, 126, last], [127, 1, 1, 1]  # 32385 + 255 + 126 + last
    assert one_output(codes, weights) == (acc, event, 0, 32766 + last)


@pytest.mark.parametrize("last, acc, event", [(128, -32768, False), (129, 32767, True)])
def test_wrap_at_the_lower_bound(last, acc, event):
    codes, weights = [255, last], [-128, -1]
    assert one_output(codes, weights) == (acc, event, -32640 - last, 0)


@pytest.mark.parametrize("last, acc, event", [(126, 32766, False), (127, 32767, False), (128, 32767, True)])
def test_saturate_at_the_upper_bound(last, acc, event):
    codes, weights = [255, 255, last], [127, 1, 1]
    assert one_output(codes, weights, saturate=True) == (acc, event, 0, 32640 + last)


@pytest.mark.parametrize("last, acc, event", [(127, -32767, False), (128, -32768, False), (129, -32768, True)])
def test_saturate_at_the_lower_bound(last, acc, event):
    codes, weights = [255, last], [-128, -1]
    assert one_output(codes, weights, saturate=True) == (acc, event, -32640 - last, 0)


def test_saturating_pair_is_raw_and_corrected_afterwards():
    """vpmaddubsw: the pair 255 * 127 + 255 * 127 saturates although the corrected sum would fit."""
    acc, event, _, highest = one_output([255, 255], [127, 127], z=250, saturate=True, block=2)
    assert event and highest == 64770
    assert acc == 32767 - 250 * 254
    assert one_output([255, 255], [127, 127], z=250, block=2) == (5 * 254, False, 0, 1270)


def test_opposite_signs_within_a_partial_sum_do_not_overflow():
    """Only partial sums count, not the order of products within one."""
    codes, weights = [255] * 6, [127, 127, 127, -127, -127, -127]
    assert one_output(codes, weights, bits=16)[:2] == (0, False)
    assert one_output(codes, weights, bits=16, lanes=2)[:2] == (0, False)
    assert one_output(codes, weights, bits=16, block=3)[:2] == (0, True)  # both wrap; the errors cancel


def test_lanes_and_blocks_take_different_products():
    codes, weights = [255, 255, 255, 255], [127, -127, 127, -127]
    assert one_output(codes, weights, block=2)[1] is False
    assert one_output(codes, weights, lanes=2)[1] is True


def test_padding_has_the_code_of_zero():
    """Wrapping registers see 0 there, saturating ones the raw code."""
    x, weight = np.full((1, 1, 1, 1), 10, np.uint8), np.full((1, 3, 3, 1), 127, np.int8)
    acc, events, lowest, highest = emulate(x, weight, 200, padding=(1, 1, 1, 1))
    assert (int(acc[0, 0, 0, 0]), int(events.sum()), lowest, highest) == (-190 * 127, 0, -190 * 127, 0)
    acc, events, _, highest = emulate(x, weight, 200, padding=(1, 1, 1, 1), saturate=True)
    assert highest == (8 * 200 + 10) * 127 and events.all()
    assert int(acc[0, 0, 0, 0]) == 32767 - 200 * 9 * 127


@pytest.mark.parametrize("depth", [65793, 65794, 70000])
@pytest.mark.parametrize("saturate", [False, True])
def test_sums_around_and_beyond_32_bits(depth, saturate):
    """65793 products of 255 and -128 are the most that 32 bits hold for certain."""
    policy = Accumulator(bits=32, overflow="saturate" if saturate else "wrap")
    x, weight = np.full((1, 1, 1, depth), 255, np.uint8), np.full((1, 1, 1, depth), -128, np.int8)
    assert_same(x, weight, 0, policy)
    assert_same(x, -(weight + 1), 0, policy)


def test_empty_batch():
    acc, events, lowest, highest = emulate(np.zeros((0, 4, 4, 2), np.uint8), np.zeros((3, 1, 1, 2), np.int8), 0)
    assert acc.shape == events.shape == (0, 4, 4, 3) and (lowest, highest) == (0, 0)


X, W = np.zeros((1, 5, 5, 4), np.uint8), np.zeros((6, 3, 3, 4), np.int8)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"x": X.astype(np.int8)}, TypeError),
        ({"x": X.astype(np.float32)}, TypeError),
        ({"x": X[0]}, TypeError),
        ({"x": X.transpose(0, 3, 1, 2)}, TypeError),
        ({"x": X[:, ::2]}, TypeError),
        ({"x": None}, TypeError),
        ({"x": X[..., :3].copy()}, ValueError),
        ({"x": X[:, :2].copy()}, ValueError),
        ({"x": X[:, :0].copy()}, ValueError),
        ({"weight": W.astype(np.uint8)}, TypeError),
        ({"weight": W[:, :0].copy()}, ValueError),
        ({"weight": W[:0].copy()}, ValueError),
        ({"zero_point": 256}, ValueError),
        ({"zero_point": -1}, ValueError),
        ({"zero_point": 0.5}, TypeError),
        ({"stride": (0, 1)}, ValueError),
        ({"stride": (1, -1)}, ValueError),
        ({"stride": 1}, TypeError),
        ({"stride": (2**70, 1)}, TypeError),
        ({"padding": (-1, 0, 0, 0)}, ValueError),
        ({"padding": (0, 0, 2**62, 0)}, ValueError),
        ({"padding": (2**20,) * 4}, ValueError),
        ({"dilation": (0, 1)}, ValueError),
        ({"dilation": (2**61, 1)}, ValueError),
        ({"groups": 0}, ValueError),
        ({"groups": 2}, ValueError),
        ({"groups": 5}, ValueError),
        ({"bits": 7}, ValueError),
        ({"bits": 33}, ValueError),
        ({"lanes": 0}, ValueError),
        ({"block": 0}, ValueError),
        ({"block": -(2**63)}, ValueError),
        ({"lanes": 2, "block": 2}, ValueError),
    ],
)
def test_bad_arguments_raise(change, error):
    arguments = {"x": X, "weight": W, "zero_point": 0} | change
    with pytest.raises(error):
        emulate(**arguments)


def test_huge_lanes_and_blocks_are_harmless():
    rng = np.random.default_rng(0)
    x, weight = rng.integers(0, 256, X.shape).astype(np.uint8), rng.integers(-127, 128, W.shape).astype(np.int8)
    whole = emulate(x, weight, 3, bits=32)[0]
    for policy in ({"lanes": 2**63 - 1}, {"block": 2**63 - 1}):
        np.testing.assert_array_equal(emulate(x, weight, 3, bits=32, **policy)[0], whole)
    np.testing.assert_array_equal(emulate(x, weight, 3, bits=20, block=2**63 - 1)[0], whole)
