"""Clips are means over frames, and a policy that always chooses one width is that width's network, bit for bit."""

import numpy as np
import pytest
import torch
from composing import built, settings_of
from torch import nn
from torchmetrics.functional.classification import multiclass_average_precision

from oaq_repro.errors import InputError
from oaq_repro.models.network import Network
from oaq_repro.settings.schema import check
from oaq_repro.tasks.schedule import Schedule
from oaq_repro.tasks.video import (
    AnyPrecisionTask,
    ClipNetwork,
    PolicyTask,
    VideoTask,
    mean_of_kept,
    of_frames,
    routed,
    source_cost,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("a", "b", "c")
CLIPS = torch.randn(4, 5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


class Chosen(nn.Module):
    """A policy whose scores are parameters: [N, T, choices] and [N, classes]."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.own = nn.Parameter(torch.zeros(len(scores), 3))

    def forward(self, clips):
        return self.scores, self.own

    def choices(self, clips):
        return self.scores.argmax(-1)


def policy_task(scores, frames, weights=(0.16, 0.5, 0.1, 1.0)):
    names = ("cost_weight", "balance_weight", "entropy_weight", "own_weight")
    return PolicyTask(
        Network(Chosen(scores)), Schedule(lr=0.1, steps=1), CLASSES, frames=frames,
        weights=dict(zip(names, weights, strict=True)), tau=lambda epoch: 5.0,
    )  # fmt: skip


def one_hot(choices, count):
    return 100.0 * nn.functional.one_hot(choices, count).float()


@torch.no_grad()
def test_a_clips_logits_are_the_mean_over_its_frames():
    dense = network()
    task = VideoTask(Network(dense), None, CLASSES)
    frames = np.array([[dense(frame[None])[0].numpy() for frame in clip] for clip in CLIPS])
    np.testing.assert_allclose(task(CLIPS).numpy(), frames.mean(1), atol=1e-6)
    np.testing.assert_allclose(ClipNetwork(dense)(CLIPS).numpy(), frames.mean(1), atol=1e-6)


def test_metrics_of_clips():
    dense = network()
    task = VideoTask(Network(dense), None, CLASSES, parent=network(1))
    labels = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        outputs = task(CLIPS)
        for part in (slice(0, 3), slice(3, 4)):
            task.validation_step((CLIPS[part], labels[part]), 0)
        taught = ClipNetwork(network(1))(CLIPS)
    found = task.compute()
    assert list(found) == ["clip_top1", "clip_map", "agreement"]
    assert found["clip_top1"] == (outputs.argmax(1) == labels).float().mean()
    assert found["agreement"] == (outputs.argmax(1) == taught.argmax(1)).float().mean()
    assert torch.isclose(found["clip_map"], multiclass_average_precision(outputs.softmax(1), labels, 3))


def test_skipped_frames_do_not_count_and_all_skipped_is_finite():
    logits = torch.randn(2, 3, 4)
    kept = torch.tensor([[True, False, True], [False, False, False]])
    found = mean_of_kept(logits, kept)
    assert torch.allclose(found[0], (logits[0, 0] + logits[0, 2]) / 2) and found[1].eq(0).all()


@pytest.mark.parametrize("width", [0, 1])
@torch.no_grad()
def test_a_policy_that_always_chooses_a_width_is_that_width(width):
    """Frame by frame bit for bit, and no other network is asked."""

    def never(frames):
        raise AssertionError("this network was not chosen")

    dense = network()
    frames = {8: dense, 2: never} if width == 0 else {8: never, 2: dense}
    choices = torch.full((4, 5), width)
    assert torch.equal(routed(frames, CLIPS, choices, 3), mean_of_kept(of_frames(dense, CLIPS), choices == width))
    task = policy_task(one_hot(choices, 3), frames)
    assert torch.equal(task(CLIPS), routed(frames, CLIPS, choices, 3))
    torch.testing.assert_close(task(CLIPS), VideoTask(Network(dense), None, CLASSES)(CLIPS))  # another order


@torch.no_grad()
def test_every_frame_goes_to_the_network_that_was_chosen_and_skipped_ones_to_none():
    seen = {8: [], 2: []}
    nets = {8: network(1), 2: network(2)}

    def noted(bits):
        def run(frames):
            seen[bits].append(frames)
            return nets[bits](frames)

        return run

    choices = torch.tensor([[0, 1, 2, 2, 1]] * 3 + [[2] * 5])
    found = routed({bits: noted(bits) for bits in nets}, CLIPS, choices, 3)
    assert {bits: sum(map(len, frames)) for bits, frames in seen.items()} == {8: 3, 2: 6}
    expected = (nets[8](CLIPS[:3, 0]) + nets[2](CLIPS[:3, 1]) + nets[2](CLIPS[:3, 4])) / 3
    assert torch.allclose(found[:3], expected, atol=1e-6) and found[3].eq(0).all()


def test_the_policys_loss_is_its_formula():
    """Scores so far apart that samples are their largest."""
    nets = {8: network(1), 2: network(2)}
    choices = torch.tensor([[0, 1, 2, 2, 1], [1, 1, 1, 2, 2], [0, 0, 0, 0, 0], [2, 2, 2, 2, 2]])
    labels = torch.tensor([0, 1, 2, 1])
    task = policy_task(one_hot(choices, 3), nets)
    loss = task.objective_at(CLIPS, labels, 0)
    with torch.no_grad():
        logits = routed(nets, CLIPS, choices, 3)
    own = nn.functional.cross_entropy(logits, labels).item() + np.log(3)
    shares = np.array([6, 5, 9]) / 20
    cost = (shares * [1.0, 4 / 64, 0.0]).sum()
    expected = own + 0.16 * cost + 0.5 * ((shares - 1 / 3) ** 2).sum()
    assert loss.item() == pytest.approx(expected, abs=1e-4)


def test_gradients_reach_the_policy_and_no_network():
    nets = {8: network(1), 2: network(2)}
    task = policy_task(torch.randn(4, 5, 3), nets)
    task.objective_at(CLIPS, torch.tensor([0, 1, 2, 1]), 0).backward()
    assert task.dense.scores.grad.abs().max() > 0 and task.dense.own.grad.abs().max() > 0
    assert all(p.grad is None for net in nets.values() for p in net.parameters())
    assert set(task.state_dict()) == {"dense.scores", "dense.own"}  # frozen networks are no part of it


def test_the_sources_cost():
    assert [source_cost(bits) for bits in (32, 8, 4, 2)] == [1.0, 1.0, 0.25, 0.0625]


def test_stage_1_is_the_mean_over_the_widths_of_labels_and_distillation():
    dense, parent = network(), network(1)
    seen = []
    task = AnyPrecisionTask(
        Network(dense), Schedule(lr=0.1, steps=1), CLASSES, parent=parent, widths=(8, 4, 2),
        set_width=lambda net, bits: seen.append(bits), distillation=0.5,
    )  # fmt: skip
    labels = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        found = task.objective(CLIPS, labels)
        z, t = task(CLIPS), ClipNetwork(parent)(CLIPS)
    p, q = t.softmax(1), z.softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    assert found.item() == pytest.approx((nn.functional.cross_entropy(z, labels) + 0.5 * kl).item(), abs=1e-5)
    assert seen == [2, 4, 8]


def test_the_method_is_for_clips_only():
    with pytest.raises(InputError, match="method: found videoiq, which is for video, with task=classification"):
        check(settings_of("task=classification", "method=videoiq"))
    assert built("method", "task=video").policy.size == 6
    assert check(settings_of("task=video", "method=int8"))["method"]["kind"] == "int8"
