import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant.networks import images, quantized, shuffled
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.reference import Reference

SELECTIONS = {
    "chunk": (lambda x: x.chunk(2, dim=1)[1], [4, 5, 6]),
    "uneven chunk": (lambda x: torch.chunk(x, 3, -3)[2], [6]),
    "split": (lambda x: torch.split(x, [2, 4, 1], dim=1)[1], [2, 3, 4, 5]),
    "equal split": (lambda x: x.split(3, 1)[2], [6]),
    "last": (lambda x: x.split(3, 1)[-1], [6]),
    "slice": (lambda x: x[:, 2:5], [2, 3, 4]),
    "slice of all": (lambda x: x[:, ::3, :, :], [0, 3, 6]),
    "negative": (lambda x: x[:, -2:], [5, 6]),
    "shuffle": (lambda x: shuffled(x[:, :6], 3), [0, 2, 4, 1, 3, 5]),
    "function": (lambda x: F.channel_shuffle(x[:, 1:], 2), [1, 4, 2, 5, 3, 6]),
}


class Selected(nn.Module):
    def __init__(self, select):
        super().__init__()
        self.conv, self.select = nn.Conv2d(3, 7, 3), select

    def forward(self, x):
        return self.select(self.conv(x))


@pytest.mark.parametrize("name", SELECTIONS)
def test_selections_pass_codes(name):
    select, channels = SELECTIONS[name]
    model, x = quantized(Selected(select), accumulator="int32"), images(2, 12, seed=2)
    graph = lower(model)
    run = Reference(graph).run(x.numpy(), trace=True)
    last = graph.node(graph.outputs[0]).inputs[0]
    assert np.array_equal(run.values[last], run.values["conv"][:, channels])
    assert np.array_equal(run.outputs[0], model(x).detach().numpy())


def test_a_selection_of_a_selection_is_one():
    def halves(x):
        a, b = shuffled(x[:, :6], 3).chunk(2, dim=1)
        return torch.cat((a, F.relu(b)), 1)

    model, x = quantized(Selected(halves), accumulator="int32"), images(2, 12, seed=2)
    graph = lower(model)
    selections = [node for node in graph.nodes if isinstance(node, ir.Select)]
    assert [(node.inputs, node.channels.tolist()) for node in selections] == [
        (("conv",), [0, 2, 4]), (("conv",), [1, 3, 5]),
    ]  # fmt: skip
    assert [name for name, _, _ in model.swapped] == [node.name for node in graph.nodes[1:-1]]
    assert np.array_equal(Reference(graph).run(x.numpy()).outputs[0], model(x).detach().numpy())


def test_all_channels_are_no_selection():
    graph = lower(quantized(Selected(lambda x: x[:, :7, :, :]), accumulator="int32"))
    assert [type(node) for node in graph.nodes] == [ir.Quantize, ir.Conv, ir.Dequantize]


@pytest.mark.parametrize(
    "select, message",
    [
        (lambda x: x[:, 0], "expected slices of the channels"),
        (lambda x: x[:2], "expected slices of the channels"),
        (lambda x: x[:, :, 1:], "expected slices of the channels in numbers"),
        (lambda x: x.chunk(2, dim=2)[0], "expected a split of the channels"),
        (lambda x: F.channel_shuffle(x, 2), "a shuffle of 7 channels in 2 groups"),
        (lambda x: x.flatten(1).chunk(2, dim=1)[0], "unknown number of channels"),
    ],
)
def test_other_selections_are_errors(select, message):
    with pytest.raises(InputError, match=message):
        quantized(Selected(select))
