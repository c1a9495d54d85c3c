"""Distilled images: that they have the statistics they are made for, on a network whose data are known."""

import pytest
import torch
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.quant.calibration.distill import distilled

LOW, HIGH = torch.full((1, 1, 1), -3.0), torch.full((1, 1, 1), 3.0)


@pytest.fixture
def network():
    """Batch norms with the statistics of images of stripes."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, momentum=None), nn.ReLU(),
        nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(),
        nn.Linear(64, 5), nn.BatchNorm1d(5, momentum=None),
    )  # fmt: skip
    stripes = torch.linspace(-1.5, 1.5, 8)[None, None, None].expand(64, 1, 8, 8) + 0.3 * torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        made.train()(stripes)
    return made.train()


def gaps(network, x):
    """By batch norm, in evaluation: how far means and deviations of its input are from those that it keeps."""
    found = []
    network.eval()
    for module in network:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            values = x.detach().transpose(0, 1).flatten(1)
            found.append(float((values.mean(1) - module.running_mean).abs().max()
                               + (values.std(1, correction=0) - module.running_var.sqrt()).abs().max()))  # fmt: skip
        x = module(x)
    return found


def test_images_have_the_statistics_that_noise_has_not(network):
    start = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 6 - 3
    state = {key: value.clone() for key, value in network.state_dict().items()}
    made = distilled(network, start, LOW, HIGH, 200, 0.1)
    assert network.training and all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network)
    assert made.shape == start.shape and made.min() >= -3 and made.max() <= 3 and not made.requires_grad
    assert all(after < 0.5 * before for before, after in zip(gaps(network, start), gaps(network, made), strict=True))
    assert torch.equal(made, distilled(network, start, LOW, HIGH, 200, 0.1))


def test_a_network_without_batch_norm_is_named():
    with pytest.raises(InputError, match=r"calibration\.source: found distilled, expected another one"):
        distilled(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8), LOW, HIGH, 2, 0.1)
