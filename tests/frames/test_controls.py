"""Controls from tables of logits, against sums over frames written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oaq_repro.frames.controls import FrameCosts, Held, by_kind, line, shuffled
from oaq_repro.results.frame_sections import FrameChoice

WIDTHS = (8, 4, 2)
COSTS = FrameCosts(1000.0, {8: 64e3, 4: 16e3, 2: 4e3}, {8: 1.0, 4: 0.9, 2: 0.8}, 50.0, 50 * 1024.0, 0.1)


def held(seed=0, clips=40, frames=5, classes=4, kinds=True, choices=None):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(clips, frames, 3, classes, generator=rng)
    labels = torch.randint(classes, (clips,), generator=rng)
    drawn = torch.randint(4, (clips, frames), generator=rng)
    found = torch.randint(3, (clips, frames), generator=rng) if kinds else None
    return Held(logits, labels, drawn if choices is None else choices, WIDTHS, found, COSTS)


def clip_logits(table, choices):
    """Clip by clip, in Python."""
    found = []
    for logits, chosen in zip(table.numpy(), choices.tolist(), strict=True):
        kept = [logits[t, c] for t, c in enumerate(chosen) if c < 3]
        found.append(np.mean(kept, axis=0) if kept else np.zeros(logits.shape[-1]))
    return np.array(found)


def row(rows, choice, bits=None):
    (found,) = [r for r in rows if r.choice == choice and r.bits == bits]
    return found


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_accuracy_of_every_row_is_that_of_the_frames_it_names(seed):
    data = held(seed)
    rows = data.all(seed=1)
    assert [(r.choice, r.bits) for r in rows] == [
        ("policy", None), *(("uniform", b) for b in WIDTHS), ("shuffled", None), *(("skip_only", b) for b in WIDTHS),
        ("line", None), ("oracle", None),
    ]  # fmt: skip
    labels = data.labels.numpy()

    def top1(choices):
        return (clip_logits(data.logits, choices).argmax(1) == labels).mean()

    assert row(rows, "policy").metrics["clip_top1"] == pytest.approx(top1(data.choices))
    for index, bits in enumerate(WIDTHS):
        assert row(rows, "uniform", bits).metrics["clip_top1"] == pytest.approx(top1(torch.full((40, 5), index)))
        skips = torch.where(data.choices == 3, 3, index)
        found = row(rows, "skip_only", bits)
        assert found.metrics["clip_top1"] == pytest.approx(top1(skips))
        assert found.frames[0] == row(rows, "policy").frames[0] and found.frames[bits] == pytest.approx(
            1 - found.frames[0]
        )


@given(st.integers(0, 1000))
def test_shuffling_keeps_the_histogram(seed):
    choices = held(seed).choices
    found = shuffled(choices, np.random.default_rng(seed))
    assert found.shape == choices.shape and torch.equal(found.flatten().bincount(), choices.flatten().bincount())
    assert not torch.equal(found, choices)


def test_costs_hold_the_policys_own():
    data = held()
    rows = data.all(0)
    parts = {b: float((data.choices == i).float().mean()) for i, b in enumerate((*WIDTHS, 0))}
    policy = row(rows, "policy")
    assert policy.frames == pytest.approx(parts)
    kept = 1 - parts[0]
    assert policy.macs == pytest.approx(1000 * kept + 50)
    assert policy.cost == pytest.approx(parts[8] + parts[4] / 4 + parts[2] / 16 + 0.05)
    assert policy.bops == pytest.approx(64e3 * parts[8] + 16e3 * parts[4] + 4e3 * parts[2] + 50 * 1024)
    assert policy.ms == pytest.approx(parts[8] + 0.9 * parts[4] + 0.8 * parts[2] + 0.1)
    eight = row(rows, "uniform", 8)
    assert (eight.cost, eight.macs, eight.bops, eight.ms) == (1.0, 1000.0, 64e3, 1.0)  # no policy, so none of its cost
    shuffled_row = row(rows, "shuffled")
    assert (shuffled_row.cost, shuffled_row.frames) == (policy.cost, policy.frames)


def point(bits, cost, value):
    metrics = {"clip_top1": value}
    return FrameChoice(
        choice="skip_only", bits=bits, metrics=metrics, frames={bits: 1.0}, cost=cost, macs=1, bops=cost, ms=None
    )


@pytest.mark.parametrize(
    "cost, expected",
    [(0.1, 0.5), (0.2, 0.6), (0.25, 0.65), (0.3, 0.7), (0.65, 0.75), (1.0, 0.8), (2.0, 0.8), (0.0, 0.5)],
)
def test_the_line_is_between_neighbours_at_equal_cost(cost, expected):
    points = [point(8, 1.0, 0.8), point(2, 0.1, 0.5), point(4, 0.3, 0.7)]
    assert line(points, cost).metrics["clip_top1"] == pytest.approx(expected)


def test_the_line_of_one_width_and_of_equal_costs():
    assert line([point(8, 1.0, 0.8)], 0.5).metrics["clip_top1"] == 0.8
    assert line([point(8, 0.1, 0.8), point(4, 0.1, 0.8)], 0.1).metrics["clip_top1"] == 0.8  # all frames skipped


def test_the_oracle_is_the_best_map_of_kinds_within_the_policys_cost():
    data = held(3)
    rows = data.all(0)
    limit = row(rows, "policy").cost
    best = 0.0
    for a in range(4):
        for b in range(4):
            for c in range(4):
                chosen = torch.tensor([a, b, c])[data.kinds]
                spent = sum({0: 1.0, 1: 0.25, 2: 0.0625, 3: 0.0}[k] for k in chosen.flatten().tolist()) / 200 + 0.05
                if spent <= limit + 1e-9:
                    accuracy = (clip_logits(data.logits, chosen).argmax(1) == data.labels.numpy()).mean()
                    best = max(best, float(accuracy))
    found = row(rows, "oracle")
    assert found.metrics["clip_top1"] == pytest.approx(best) and found.cost <= limit


def test_without_kinds_there_is_no_oracle_and_all_skipped_is_finite():
    data = held(kinds=False, choices=torch.full((40, 5), 3))
    rows = data.all(0)
    assert "oracle" not in {r.choice for r in rows}
    assert row(rows, "policy").frames == {8: 0.0, 4: 0.0, 2: 0.0, 0: 1.0}
    assert all(np.isfinite(value) for r in rows for value in r.metrics.values())


def test_frames_by_kind():
    choices, kinds = torch.tensor([[0, 3, 1], [3, 3, 2]]), torch.tensor([[0, 1, 0], [1, 1, 0]])
    assert by_kind(choices, kinds, ("easy", "covered"), WIDTHS) == {
        "easy": {8: 1, 4: 1, 2: 1, 0: 0}, "covered": {8: 0, 4: 0, 2: 0, 0: 3},
    }  # fmt: skip
