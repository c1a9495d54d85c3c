import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant.networks import images, quantized
from quant.test_elementwise import Apply
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.integer import graph as ir
from oaq_repro.integer.reference import Reference

FUNCTIONS = {
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "silu by hand": lambda x: x.mul(x.sigmoid()),
    "silu with another name": lambda x: torch.sigmoid(x) * x,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "clamped": lambda x: torch.clamp(torch.tanh(x) * 2, 0, 6),
    "modules": nn.Sequential(nn.Hardsigmoid(), nn.PReLU(), nn.Tanh()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_table_for_all_steps(name):
    torch.manual_seed(0)
    network, x = Apply(FUNCTIONS[name]).eval(), images(3, 12, seed=2)
    model = quantized(network, accumulator="int32")
    assert (model(x) - network(x)).abs().max() < 0.03 * (network(x).max() - network(x).min())
    graph = lower(model)
    assert [type(n) for n in graph.nodes] == [ir.Quantize, ir.Conv, ir.Elementwise, ir.Dequantize]
    assert np.array_equal(Reference(graph).run(x.numpy()).outputs[0], model(x).detach().numpy())
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def kinds(function):
    return [type(n) for n in lower(quantized(Apply(function), accumulator="int32")).nodes[2:-1]]


def test_the_steps_are_named():
    model = quantized(Apply(FUNCTIONS["hardswish by hand"]))
    assert model.swapped == [
        ("conv", "Conv2d", "QuantConv2d"), ("truediv", "add + relu6 + mul + truediv", "QuantElementwise"),
    ]  # fmt: skip


def test_activations_stay_with_what_they_follow():
    assert kinds(lambda x: torch.relu(x)) == []
    assert kinds(lambda x: torch.tanh(torch.relu(x))) == [ir.Elementwise]
    model = quantized(Apply(lambda x: torch.tanh(torch.relu(x)) + 1))
    assert model.get_submodule("conv").output.activation == "relu"


def test_steps_that_others_read_are_tables_of_their_own():
    def function(x):
        gate = torch.sigmoid(x)
        return F.max_pool2d(gate, 2), gate * x

    assert kinds(lambda x: torch.cat(function(x)[:1], 1)) == [ir.Elementwise, ir.MaxPool, ir.Concat]
    found = kinds(lambda x: torch.cat([F.max_pool2d(function(x)[1], 2), function(x)[0]], 1))
    assert found.count(ir.Elementwise) == 2 and ir.Multiply not in found


def test_two_tensors_are_no_function_of_one():
    assert kinds(lambda x: torch.sigmoid(x.mean((2, 3), keepdim=True)) * x) == [
        ir.GlobalAvgPool, ir.Elementwise, ir.Multiply,
    ]  # fmt: skip


def test_a_function_of_the_image():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv((x - 0.5) / 0.25)

    graph = lower(quantized(Shifted(), accumulator="int32"))
    assert [type(n) for n in graph.nodes] == [ir.Quantize, ir.Elementwise, ir.Conv, ir.Dequantize]


def test_many_steps_take_no_time():
    """A chain of sums of two: as many ways through it as 2 to the number of steps."""

    def function(x):
        for _ in range(60):
            x = x * 0.5 + torch.tanh(x)
        return x

    assert kinds(function) == [ir.Elementwise]


def test_the_float_network_is_left_alone():
    network = Apply(FUNCTIONS["modules"])
    before = dict(network.named_modules())
    quantized(network)
    assert dict(network.named_modules()) == before
