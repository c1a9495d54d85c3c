"""The policy network: causal, and its products counted by hand."""

import pytest
import torch

from oaq_repro.models.policy import Policy

pytestmark = pytest.mark.usefixtures("one_thread")


def policy(network="cnn", size=6, inputs=1):
    torch.manual_seed(0)
    return Policy(inputs, 4, 10, size, network, (4, 8), 0.25, 16).eval()


def test_products_of_a_frame():
    """4 of 1x3x3 at 36 places, 8 of 4x3x3 at 9, four gates of 16 units that read 8 features and 16 units, 4 scores."""
    made = policy()
    assert made.macs((1, 12, 12)) == 36 * 4 * 9 + 9 * 8 * 36 + 4 * 16 * (8 + 16) + 16 * 4
    assert made.macs((1, 40, 30)) == made.macs((1, 12, 12))  # frames are shrunk
    assert not made.train().training or made.macs((1, 12, 12)) and made.training


@torch.no_grad()
def test_a_choice_depends_on_the_frames_up_to_its_own():
    made, clips = policy(), torch.randn(2, 6, 1, 12, 12)
    scores, classes = made(clips)
    assert scores.shape == (2, 6, 4) and classes.shape == (2, 10)
    assert torch.equal(made.choices(clips), scores.argmax(-1))
    other = clips.clone()
    other[:, 3] += 1
    changed, _ = made(other)
    assert torch.allclose(changed[:, :3], scores[:, :3], atol=1e-6)
    assert all(not torch.allclose(changed[:, t], scores[:, t], atol=1e-6) for t in (3, 4, 5))  # it remembers


@torch.no_grad()
def test_frames_are_seen_as_means_of_their_pixels():
    made = policy()
    frames = torch.arange(144.0).view(1, 1, 12, 12)
    assert made.shrunk(frames)[0, 0, 0, 0] == frames[0, 0, :2, :2].mean()


@torch.no_grad()
def test_the_sources_network():
    made = policy("mobilenetv2", 32, 3)
    scores, _ = made(torch.randn(1, 2, 3, 40, 40))
    assert scores.shape == (1, 2, 4) and made.macs((3, 40, 40)) > 10**5
