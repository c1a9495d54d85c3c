"""Entropies of patterns, counted by hand."""

import math

import pytest
import torch
from torch import nn

from oaq_repro.quant.efficiency import efficiencies, entropy


def test_entropy_of_four_patterns_by_hand():
    assert entropy({"a": 1, "b": 1, "c": 1, "d": 1}) == 2.0
    assert entropy({"a": 2, "b": 1, "c": 1}) == 1.5
    assert entropy({"a": 7}) == 0.0


class Copy(nn.Module):
    """What comes in goes through a batch norm that changes nothing, and out."""

    def __init__(self, units):
        super().__init__()
        self.bn = nn.BatchNorm1d(units, eps=0.0)

    def forward(self, x):
        return self.bn(x)


@torch.no_grad()
def found(patterns):
    network = Copy(len(patterns[0])).eval()
    with efficiencies(network) as seen:
        for row in patterns:  # in batches of one
            network(torch.tensor([row]))
    return seen


def test_two_units_by_hand():
    """Of four images two are (on, off), zero counting as off: 1.5 bits of 2 units."""
    seen = found([[1.0, -1.0], [2.0, 0.0], [-1.0, 3.0], [1.0, 1.0]])
    assert seen == {"bn": 0.75, "output": 0.75}


def test_a_pattern_that_never_changes_says_nothing():
    assert found([[1.0, -1.0, 2.0]] * 5) == {"bn": 0.0, "output": 0.0}


def test_many_units():
    rows = [[float(bit) for bit in f"{number:010b}"] for number in range(64)]
    assert found(rows)["bn"] == pytest.approx(math.log2(64) / 10)


@torch.no_grad()
def test_maps_are_left_out_and_hooks_do_not_stay():
    network = nn.Sequential(nn.BatchNorm2d(2, eps=0.0), nn.ReLU(), nn.Flatten()).eval()
    with efficiencies(network) as seen:
        network(torch.tensor([[[[1.0]], [[-1.0]]], [[[-1.0]], [[1.0]]]]))
    assert seen == {"output": 0.5}
    assert not any(module._forward_hooks for module in network.modules())
