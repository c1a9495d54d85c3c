"""Packing of depthwise layers: which taps go two by two."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from oaq_repro import _kernels
from oaq_repro.integer.engine.packing import CHANNEL_ORDER, pack_depthwise

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


def test_taps_stand_alone_where_pairs_are_not_asked_for():
    (block,) = pack_depthwise(np.ones((32, 3, 3), np.int8), ROW, (1, 1), None)
    assert pairs_of(block) == [(tap,) for tap in range(9)]
    assert block.weights.shape == (9, _kernels.CHANNEL_BLOCK, 2) and not block.weights[..., 1].any()
