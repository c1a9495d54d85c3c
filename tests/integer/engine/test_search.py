"""What is sought in C++ while a graph is compiled (csrc/search.hpp), against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oaq_repro import _kernels

PANEL, STEP = _kernels.PANEL, _kernels.STEP


def largest_half(weights, lowest, highest):
    """Whether a half sum over weights [steps, 4] can leave 16 bits, by its extreme inputs."""
    for half in (weights[:, :2], weights[:, 2:]):
        products = np.stack([half.astype(int) * lowest, half.astype(int) * highest])
        if products.max(0).sum() > 32767 or products.min(0).sum() < -32768:
            return True
    return False


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_bounds_of_sums(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    runs = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    panels, largest = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([8, 30, 64, 127]))
    lowest, highest = data.draw(st.sampled_from([(0, 255), (0, 100), (-128, 127), (0, 0)]))
    weights = rng.integers(-largest, largest + 1, (panels, sum(runs), PANEL, STEP)).astype(np.int8)
    weights[rng.random(weights.shape) < 0.05] = -128
    folds = [1, 2, 4, 8]
    longest, apart, positive, negative = _kernels.bound_sums(weights, runs, lowest, highest, folds)
    apart = apart.reshape(panels, sum(runs), PANEL)
    for panel in range(panels):
        for c in range(PANEL):
            own = weights[panel, :, c]
            fits = 0
            for fold in folds:
                if fold >= 2 * max(runs):
                    continue
                blocks, begin = [], 0
                for steps in runs:
                    blocks += [own[begin + at : begin + min(at + fold, steps)] for at in range(0, steps, fold)]
                    begin += steps
                if not any(largest_half(block, lowest, highest) for block in blocks):
                    fits = fold
            at = panel * PANEL + c
            assert longest[at] == fits
            assert apart[panel, :, c].tolist() == [largest_half(step[None], lowest, highest) for step in own]
            assert positive[at] == own[own > 0].sum(dtype=int) and negative[at] == own[own < 0].sum(dtype=int)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_channel_goes_where_the_worst_sum_stays_smallest(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    channels, sums = data.draw(st.integers(1, 70)), data.draw(st.sampled_from([1, 7, 32, 200]))
    block = data.draw(st.integers(1, 5))
    reach = rng.integers(0, 1000, (channels, sums)).astype(np.float32)
    ranks = rng.integers(0, data.draw(st.integers(1, 3)), channels)
    ranks = np.unique(ranks, return_inverse=True)[1]
    position = np.arange(channels)
    half, rank_at = position // (STEP * block) * 2 + position % STEP // 2, np.sort(ranks)
    free, totals, expected = set(position.tolist()), {}, np.empty(channels, int)
    for channel in np.argsort(-reach.max(1), kind="stable").tolist():
        halves = sorted({int(half[p]) for p in free if rank_at[p] == ranks[channel]})
        worst = [(totals.get(h, 0) + reach[channel]).max() for h in halves]
        chosen = halves[int(np.argmin(worst))]
        totals[chosen] = totals.get(chosen, 0) + reach[channel]
        place = min(p for p in free if half[p] == chosen and rank_at[p] == ranks[channel])
        expected[place] = channel
        free.remove(place)
    np.testing.assert_array_equal(_kernels.deal(reach, ranks.tolist(), block), expected)


def cost_of(order, conflicts, costs):
    """Steps of two pairs, each of which costs what its words say, once per bit that one of the pairs has."""
    total = 0.0
    for step in range(0, len(order), STEP):
        pairs = [order[at : at + 2] for at in range(step, min(step + STEP, len(order)), 2)]
        bits = np.zeros(len(costs), np.uint64)
        for pair in pairs:
            if len(pair) == 2:
                bits |= conflicts[pair[0], pair[1]]
        total += sum(cost * int(word).bit_count() for cost, word in zip(costs, bits, strict=True))
    return total


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_exchange_of_two_channels_is_left_that_would_be_cheaper(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    channels, words = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 3))
    found = rng.random((channels, channels, words, 64)) < data.draw(st.sampled_from([0.01, 0.1]))
    bits = np.packbits(found | found.transpose(1, 0, 2, 3), axis=3)
    conflicts = np.ascontiguousarray(bits).view(np.uint64).reshape(channels, channels, words)
    costs = rng.integers(1, 4, words).astype(float).tolist()
    given_order = rng.permutation(channels).tolist()
    order = _kernels.exchange(conflicts, costs, given_order).tolist()
    assert sorted(order) == list(range(channels))
    least = cost_of(order, conflicts, costs)
    assert least <= cost_of(given_order, conflicts, costs)
    for i in range(channels):
        for j in range(i):
            other = list(order)
            other[i], other[j] = other[j], other[i]
            assert cost_of(other, conflicts, costs) >= least


def test_parts_that_do_not_fit_are_errors():
    weights, reach = np.zeros((1, 2, PANEL, STEP), np.int8), np.zeros((3, 2), np.float32)
    for runs in ([1], [3], [-1, 3], []):
        with pytest.raises(ValueError, match="weights"):
            _kernels.bound_sums(weights, runs, 0, 255, [1])
    for codes in ((1, 255), (0, 256), (-200, -1)):
        with pytest.raises(ValueError, match="codes"):
            _kernels.bound_sums(weights, [2], *codes, [1])
    with pytest.raises(ValueError, match="folds"):
        _kernels.bound_sums(weights, [2], 0, 255, [0])
    for ranks, block in (([0, 0], 1), ([0, 0, -1], 1), ([0, 0, 0], 0)):
        with pytest.raises(ValueError, match="rank"):
            _kernels.deal(reach, ranks, block)
    conflicts = np.zeros((2, 2, 1), np.uint64)
    for costs, order in (([1.0, 1.0], [0, 1]), ([1.0], [0, 1, 2])):
        with pytest.raises(ValueError, match="conflicts"):
            _kernels.exchange(conflicts, costs, order)
    with pytest.raises(ValueError, match="order"):
        _kernels.exchange(conflicts, [1.0], [0, 0])
