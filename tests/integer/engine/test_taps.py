"""Which taps share a sum, against a search of all orders."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oaq_repro.integer.engine.taps import pair_taps

LIMIT = (1 << 15) - 1


def longest(pairs, low, high):
    """The largest number of pairs that can be added in a row; 0 where a pair can overflow."""
    taps, best = [list(set(pair)) for pair in pairs], 0
    for fold in range(1, len(taps) + 1):
        groups = [sum(taps[i : i + fold], []) for i in range(0, len(taps), fold)]
        if all(high[group].sum(0).max() <= LIMIT and low[group].sum(0).min() >= -LIMIT - 1 for group in groups):
            best = fold
    return best


def all_orders(taps):
    """Two by two; one of an odd number alone."""
    for order in permutations(range(taps)):
        for alone in range(0, taps, 2) if taps % 2 else [taps]:
            row = [*order[:alone], *order[alone : alone + 1] * 2, *order[alone + 1 :]]
            yield [(row[i], row[i + 1]) for i in range(0, len(row), 2)]


def products(rng, taps, largest, channels=3):
    weight = rng.integers(-largest, largest + 1, (taps, channels))
    return np.minimum(weight * 200, 0), np.maximum(weight * 200, 0)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), taps=st.integers(1, 6), largest=st.sampled_from([127, 90, 60, 40, 20]))
def test_no_order_allows_longer_sums(seed, taps, largest):
    low, high = products(np.random.default_rng(seed), taps, largest)
    pairs = pair_taps(low, high)
    assert sorted(tap for pair in pairs for tap in set(pair)) == list(range(taps))
    best = max(longest(order, low, high) for order in all_orders(taps))
    assert longest(pairs, low, high) == max(best, 1)
    assert (len(pairs) == -(-taps // 2)) == (best > 0)


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), taps=st.sampled_from([9, 15, 25]), largest=st.sampled_from([127, 90, 60, 20, 8]))
def test_pairs_fit_and_none_that_could_join_stay_alone(seed, taps, largest):
    low, high = products(np.random.default_rng(seed), taps, largest, 32)
    pairs = pair_taps(low, high)
    assert sorted(tap for pair in pairs for tap in set(pair)) == list(range(taps))
    assert all(high[list(set(pair))].sum(0).max() <= LIMIT for pair in pairs)
    assert all(low[list(set(pair))].sum(0).min() >= -LIMIT - 1 for pair in pairs)
    alone = [pair[0] for pair in pairs if pair[0] == pair[1]]
    for i in alone:
        for j in set(alone) - {i}:
            assert (high[i] + high[j]).max() > LIMIT or (low[i] + low[j]).min() < -LIMIT - 1


def test_small_weights_need_one_sum():
    low, high = products(np.random.default_rng(0), 9, 10)
    assert len(pair_taps(low, high)) == 5


@pytest.mark.parametrize("large", [(0, 1, 2, 3), (0, 1, 6, 7), (2, 4, 5, 8)])
def test_taps_that_cannot_join_one_another_find_other_partners(large):
    high = np.full((9, 32), 255)
    high[list(large)] *= 120
    pairs = pair_taps(np.zeros_like(high), high)
    assert len(pairs) == 5 and all(len(set(large) & set(pair)) <= 1 for pair in pairs)
