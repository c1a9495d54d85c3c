import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant.networks import images, quantized
from torch import fx, nn

from oaq_repro.deploy.lower import lower
from oaq_repro.integer import graph as ir
from oaq_repro.integer.reference import Reference
from oaq_repro.quant.elementwise import QuantElementwise, constant_beyond, elementwise_function
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import ActivationQuantizer

MODULES = (
    nn.CELU(), nn.ELU(), nn.GELU(), nn.GELU("tanh"), nn.Hardsigmoid(), nn.Hardswish(inplace=True), nn.Hardtanh(-2, 1),
    nn.LeakyReLU(0.1), nn.LogSigmoid(), nn.Mish(), nn.PReLU(), nn.SELU(), nn.SiLU(inplace=True), nn.Sigmoid(),
    nn.Softplus(), nn.Softsign(), nn.Tanh(), nn.Tanhshrink(),
)  # fmt: skip
FUNCTIONS = {
    "add": lambda x: x + 3, "subtract": lambda x: 1 - x, "scale": lambda x: 0.5 * x / 3, "square": lambda x: x**2,
    "negate": lambda x: -x, "silu": F.silu, "hardswish": F.hardswish, "method": lambda x: x.sigmoid(),
    "leaky": lambda x: F.leaky_relu(x, negative_slope=0.2), "clamp": lambda x: torch.clamp(x, -1, max=2),
    "in place": lambda x: (x + 0).mul_(2), "tanh": torch.tanh, "absolute": abs,
    "augmented": lambda x: operator.imul(x + 0, 3),
}  # fmt: skip


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x):
        return self.function(self.conv(x))


@pytest.mark.parametrize("function", [*MODULES, *FUNCTIONS.values()], ids=[*map(repr, MODULES), *FUNCTIONS])
def test_functions_of_one_number(function):
    """Float in calibration, tables of codes afterwards: near the function, and the integer graph bit for bit."""
    torch.manual_seed(0)
    network = Apply(function).eval()
    model, x = quantized(network, accumulator="int32"), images(3, 12, seed=2)
    real, codes = network(x), model(x)
    elementwise = [m for m in model.modules() if isinstance(m, QuantElementwise)]
    assert elementwise
    assert (codes - real).abs().max() < 0.06 * (real.max() - real.min())
    graph = lower(model)
    assert sum(isinstance(node, ir.Elementwise) for node in graph.nodes) == len(elementwise)
    assert np.array_equal(Reference(graph).run(x.numpy()).outputs[0], codes.detach().numpy())


def test_the_table_is_the_function_of_every_code():
    model = quantized(Apply(nn.Hardswish()), accumulator="int32")
    graph = lower(model)
    (node,) = (n for n in graph.nodes if isinstance(n, ir.Elementwise))
    source = graph.qparams(node.inputs[0])
    for code in range(256):
        x = (code - source.zero_point) * float(source.scale)
        exact = x * min(max(x + 3, 0), 6) / 6 / float(node.output.scale)
        assert abs(int(node.table[code]) - min(max(exact + node.output.zero_point, 0), 255)) < 0.5001


INFINITE = float("inf")


@pytest.mark.parametrize(
    "function, low, high",
    [
        (nn.Hardswish(), -3, INFINITE), (nn.Hardsigmoid(), -3, 3), (nn.Hardtanh(-2, 1), -2, 1),
        (nn.ReLU(), 0, INFINITE),
        (nn.Sigmoid(), -6.9, 6.9), (nn.Tanh(), -3.8, 3.8), (nn.SiLU(), -9.1, INFINITE),
        (nn.PReLU(), -INFINITE, INFINITE),
        (nn.LeakyReLU(), -INFINITE, INFINITE), (nn.Softplus(), -6.9, INFINITE), (nn.Identity(), -INFINITE, INFINITE),
        (nn.ELU(), -6.9, INFINITE), (nn.Threshold(1, 0), 1, INFINITE),
    ],
)  # fmt: skip
def test_where_functions_are_constant(function, low, high):
    found = constant_beyond(function)
    assert found == pytest.approx((low, high), abs=0.05)


def test_codes_are_spent_where_the_function_changes():
    """Unless somebody else reads the values: hardswish is zero below -3, so are its codes."""
    torch.manual_seed(0)
    network = Apply(nn.Hardswish())
    network.conv.weight.data *= 20
    alone = quantized(network)
    assert float(alone.conv.output.low) == -3 and float(alone.conv.output.high) > 10
    shared = quantized(Apply(lambda x: F.hardswish(x) + F.max_pool2d(x, 1)))
    assert float(shared.conv.output.low) < -0.5 and shared.conv.output.bounds == (-INFINITE, INFINITE)
    x = images(3, 12, seed=2)
    with torch.no_grad():
        off = (alone(x) - network(x)).abs().mean()
        alone.conv.output.low.fill_(float(network.conv(images()).min()))
        assert off < 0.95 * (alone(x) - network(x)).abs().mean()


def test_where_a_function_is_undefined_the_code_is_that_of_zero():
    """As the logarithm is of codes of negative numbers; that of zero is beyond all codes."""

    class Logarithm(nn.Module):
        def forward(self, x):
            return x.log()

    output = ActivationQuantizer(8, "none", ObserverConfig())
    output.observe(torch.tensor([-1.0, 2.0]), torch.tensor(1.0))
    x = QParams(torch.tensor(0.1), torch.tensor(5.0), torch.tensor(255.0))
    table = QuantElementwise(output, Logarithm()).table(x)
    zero = float(output.parameters_of_range()[1])
    assert table[:5].tolist() == [zero] * 5 and table[5] == 0 and table[15] == zero and table[255] == 255


def test_training_has_the_gradient_of_the_function():
    torch.manual_seed(0)
    network = Apply(nn.SiLU())
    model = quantized(network, accumulator="int32")
    for mode in (True, False):
        model.train(mode).zero_grad()
        network.zero_grad()
        model(images()).square().sum().backward()
        network(images()).square().sum().backward()
        ours, theirs = (m.conv.weight.grad.flatten() for m in (model, network))
        assert F.cosine_similarity(ours, theirs, dim=0) > 0.99


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x,
        lambda x: torch.softmax(x, 1),
        lambda x: x.mean(),
        lambda x: F.rrelu(x),
        lambda x: x.cumsum(1),
        lambda x: x.max(),
        lambda x: torch.min(x, 1),
        lambda x: torch.rrelu_(x),
        lambda x: torch.where(x),
        lambda x: x.frexp(),
    ],
)
def test_what_is_no_function_of_one_number(function):
    class Only(nn.Module):
        def forward(self, x):
            return function(x)

    node = list(fx.symbolic_trace(Only()).graph.nodes)[1]
    assert elementwise_function(node, None) is None
