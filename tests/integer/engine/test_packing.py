"""Packing: which taps of depthwise layers go two by two, and pairs of dense layers that could saturate."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from integer.engine.test_engine import ISAS, single

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.packing import CHANNEL_ORDER, pack_dense, pack_depthwise
from oaq_repro.integer.engine.sums import PAIRS, WHOLE
from oaq_repro.integer.reference import Reference

ROW = 1000  # bytes


def tap_of(place, channels):
    """The number of a 3x3 window's tap at an offset in bytes."""
    return place // ROW * 3 + place % ROW // channels


def pairs_of(packed, channels=32):
    """Of different taps, or one alone."""
    return [tuple(dict.fromkeys(tap_of(place, channels) for place in pair)) for pair in packed.taps.tolist()]


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_every_tap_once_and_no_sum_of_a_pair_leaves_16_bits(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    largest, sign = data.draw(st.sampled_from([127, 100, 70, 64, 20])), data.draw(st.booleans())
    lowest, highest = data.draw(st.sampled_from([(0, 255), (0, 200), (-128, 127), (0, 127)]))
    weight = rng.integers(0 if sign else -largest, largest + 1, (100, 3, 3)).astype(np.int8)
    blocks = pack_depthwise(weight, ROW, (1, 1), (lowest, highest))
    assert len(blocks) == 4
    for b, block in enumerate(blocks):
        pairs = pairs_of(block, 100)
        assert sorted(tap for pair in pairs for tap in pair) == list(range(9))
        flat = np.zeros((32, 9), int)
        part = weight[32 * b : 32 * b + 32].reshape(-1, 9)
        flat[: len(part)] = part
        products = np.stack([flat * lowest, flat * highest])
        low, high = products.min(0), products.max(0)
        for t, pair in enumerate(pairs):
            assert high[:, list(pair)].sum(1).max() < 1 << 15 and low[:, list(pair)].sum(1).min() >= -(1 << 15)
            np.testing.assert_array_equal(block.weights[t, :, 0], flat[CHANNEL_ORDER, pair[0]])
            other = flat[CHANNEL_ORDER, pair[1]] if len(pair) == 2 else 0
            np.testing.assert_array_equal(block.weights[t, :, 1], other)


def test_taps_two_by_two_whether_they_can_overflow_or_not():
    weight = np.random.default_rng(0).integers(0, 128, (32, 3, 3)).astype(np.int8)
    (block,) = pack_depthwise(weight, ROW, (1, 1), (0, 255))
    assert len(block.taps) > 5
    pairs = block.two_by_two()
    found = pairs_of(pairs)
    assert [len(pair) for pair in found] == [2, 2, 2, 2, 1]
    assert sorted(tap for pair in found for tap in pair) == list(range(9)) and not pairs.weights[4, :, 1].any()
    for t, pair in enumerate(found):
        for k, tap in enumerate(pair):
            np.testing.assert_array_equal(pairs.weights[t, :, k], weight.reshape(32, 9)[CHANNEL_ORDER, tap])


LOUD_PARTS = st.sampled_from([0.0, 0.05, 0.5, 1.0])  # of the weights that are as large as possible


def loud_weights(data, outputs, inputs, kernel):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    shape = (outputs, inputs, kernel, kernel)
    loud = rng.random(shape) < data.draw(LOUD_PARTS)
    return np.where(loud, rng.choice([-128, -127, 127], shape), rng.integers(-40, 41, shape)), rng


@settings(deadline=None, max_examples=60)
@given(data=st.data(), isa=st.sampled_from(ISAS))
def test_pairs_that_could_saturate_are_taken_apart(data, isa):
    """In 16 bits throughout, to the result modulo 2^16."""
    kernel = data.draw(st.sampled_from([1, 3]))
    weight, rng = loud_weights(data, data.draw(st.integers(1, 70)), data.draw(st.integers(1, 23)), kernel)
    zero_point = data.draw(st.sampled_from([0, 128]))
    graph = single(weight, 255, zero_point, NAMED["int16"], 0, multiplier=2.0**-9)
    engine = Engine(graph, (weight.shape[1], 5, 5), mode="fast", isa=isa)
    assert set(engine.routes[0].sums) == {WHOLE}
    images = rng.choice([-999.0, 0.0, 999.0], (2, weight.shape[1], 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(engine.run(images)[0], Reference(graph).run(images).outputs[0])


@settings(deadline=None, max_examples=60)
@given(data=st.data(), pairs=st.booleans())
def test_taken_apart_no_pair_saturates_and_every_weight_is_there(data, pairs):
    inputs, kernel = data.draw(st.integers(1, 23)), data.draw(st.sampled_from([1, 3]))
    weight, _ = loud_weights(data, data.draw(st.integers(1, 70)), inputs, kernel)
    outputs, row = len(weight), inputs * (kernel + 2)
    packed = pack_dense(weight.transpose(0, 2, 3, 1).astype(np.int8), row, inputs, 0, (1, 1))
    apart = packed.bounds(0, 255, [1]).apart
    panels = packed.panels((WHOLE,) * -(-outputs // _kernels.PANEL), pairs, apart)
    found = np.zeros((outputs + 2 * _kernels.PANEL, row * kernel + 8), int)  # [channel, code of the window's rows]
    channel = 0
    for runs, weights, route in panels:
        wide = route == PAIRS
        step = 0
        for offset, steps, run_pairs in runs.tolist():
            for _ in range(run_pairs + 1 if wide else steps):
                for c in range(weights.shape[1]):
                    values = weights[step, c].astype(int)
                    sums = values.reshape(-1, 2)
                    assert (255 * np.maximum(sums, 0).sum(1)).max() < 1 << 15
                    assert (255 * np.minimum(sums, 0).sum(1)).min() >= -(1 << 15)
                    at, place = offset, channel + c
                    if wide:
                        place = channel + CHANNEL_ORDER[c]
                        at -= 2 if CHANNEL_ORDER[c] % 2 == 0 else 0
                    if values.any():
                        found[place, at : at + len(values)] += values
                offset += 2 if wide else 4
                step += 1
        assert step == len(weights)
        channel += weights.shape[1]
    expected = np.zeros((outputs, kernel, row), int)
    expected[:, :, : inputs * kernel] = weight.transpose(0, 2, 3, 1).reshape(outputs, kernel, -1)
    np.testing.assert_array_equal(found[:outputs, : row * kernel], expected.reshape(outputs, -1))
