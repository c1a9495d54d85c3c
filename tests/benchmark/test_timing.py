"""Statistics from made-up times; no clock is looked at."""

import dataclasses
import json

import pytest

from oaq_repro.benchmark.timing import Row, Variant, alternate, rows


def test_ratios_are_those_within_a_round():
    # The machine is ten times slower in the second half; b takes twice as long as fast in every round but one.
    times = {"fast": [1.0, 1.0, 10.0, 10.0, 10.0], "b": [2.0, 2.0, 20.0, 20.0, 50.0]}
    fast, b = rows("net", 2, times, macs=12_000, clock_hz=100.0)
    assert (fast.ratio_to_fast, fast.ratio_quartiles) == (1.0, (1.0, 1.0))
    assert (b.ratio_to_fast, b.ratio_quartiles) == (2.0, (2.0, 2.0))
    assert (fast.median_ms, b.median_ms) == (10_000.0, 20_000.0)
    assert b.p10_ms == pytest.approx(2000.0)
    assert b.mac_per_cycle == pytest.approx(12_000 / (20 * 100 * 2))
    assert (b.name, b.threads, b.variant, b.rounds) == ("net", 2, "b", 5)


def test_quartiles_lie_around_the_median():
    (_, b) = rows("net", 1, {"fast": [1.0] * 5, "b": [1.0, 2.0, 3.0, 4.0, 5.0]}, 1, 1.0)
    assert (b.ratio_quartiles, b.ratio_to_fast) == ((2.0, 4.0), 3.0)


def test_without_the_base_there_are_times_and_no_ratios():
    (row,) = rows("net", 1, {"b": [1.0, 3.0]}, 1, 1.0)
    assert row.median_ms == 2000.0 and row.ratio_to_fast is None and row.ratio_quartiles is None


def test_another_base():
    times = {"16 bit": [2.0], "fold 1": [3.0]}
    assert [row.ratio_to_fast for row in rows("shape", 1, times, 1, 1.0, base="16 bit")] == [1.0, 1.5]


def test_a_row_is_plain_values():
    plain = Row("net", 1, "ncnn", note="not installed").to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert list(plain) == [
        "name", "threads", "variant", "median_ms", "p10_ms", "ratio_to_fast", "ratio_quartiles", "mac_per_cycle",
        "rounds", "note",
    ]  # fmt: skip
    assert dataclasses.replace(Row("a", 1, "b"), note="c").note == "c"


def test_every_round_has_every_variant_once_and_places_change():
    calls: list[str] = []
    variants = [Variant(name, lambda name=name: calls.append(name) or float(len(calls))) for name in "abc"]
    rounds: list[int] = []
    times = alternate(variants, 6, warm_ups=2, progress=lambda: rounds.append(1))
    assert {name: len(values) for name, values in times.items()} == {"a": 6, "b": 6, "c": 6}
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"] and len(rounds) == 6
    turns = [calls[6 + 3 * turn : 9 + 3 * turn] for turn in range(6)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns)
    for place in range(3):
        assert {turn[place] for turn in turns} == {"a", "b", "c"}
    assert times["a"] == [float(at + 1) for at, name in enumerate(calls) if name == "a"][2:]


def test_nothing_to_time():
    assert alternate([], 3) == {}
