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
