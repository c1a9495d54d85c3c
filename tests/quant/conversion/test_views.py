import numpy as np
import pytest
import torch
from quant.networks import images, quantized
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.reference import Reference


class Excited(nn.Module):
    """Squeeze-and-excitation with linear layers, as SENet's own code; `squeeze` and `expand` are the views."""

    def __init__(self, squeeze, expand):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())
        self.squeeze, self.expand = squeeze, expand

    def forward(self, x):
        x = self.conv(x)
        y = self.fc(self.squeeze(self.pool(x), x))
        return self.expand(y, x)


SQUEEZES = {
    "view": lambda y, x: y.view(x.size(0), x.size(1)),
    "the rest": lambda y, x: y.view(y.shape[0], -1),
    "in numbers": lambda y, x: y.reshape(-1, 8),
    "squeeze": lambda y, x: y.squeeze(-1).squeeze(-1),
    "squeeze backwards": lambda y, x: torch.squeeze(y.squeeze(2), dim=2),
    "both": lambda y, x: y.squeeze((2, 3)),
    "flatten": lambda y, x: torch.flatten(y, 1),
    "of a tuple": lambda y, x: y.view((x.size()[0], -1)),
}
EXPANSIONS = {
    "view": lambda y, x: x * y.view(x.size(0), 8, 1, 1),
    "expanded": lambda y, x: x * y.view(x.size(0), x.size(1), 1, 1).expand_as(x),
    "unsqueeze": lambda y, x: y.unsqueeze(-1).unsqueeze(-1) * x,
    "unsqueeze forwards": lambda y, x: torch.unsqueeze(y.unsqueeze(2), 3) * x,
    "none": lambda y, x: x * y[:, :, None, None],
}


@pytest.mark.parametrize(
    "squeeze, expand", [*((name, "view") for name in SQUEEZES), *(("view", name) for name in EXPANSIONS)]
)
def test_views_around_linear_layers(squeeze, expand):
    torch.manual_seed(0)
    network, x = Excited(SQUEEZES[squeeze], EXPANSIONS[expand]).eval(), images(3, 12, seed=2)
    model = quantized(network, accumulator="int32")
    assert (model(x) - network(x)).abs().max() < 0.05 * network(x).abs().max()
    graph = lower(model)
    assert [n.keepdims for n in graph.nodes if isinstance(n, ir.Flatten)] == [False, True]
    assert np.array_equal(Reference(graph).run(x.numpy()).outputs[0], model(x).detach().numpy())


@pytest.mark.parametrize(
    "squeeze, message",
    [
        (lambda y, x: y.view(-1, 4), "view or squeeze: found values .*expected 4 of each image"),
        (lambda y, x: x.squeeze(-1).squeeze(-1), "view or squeeze: found values .*expected 8 of each image"),
        (lambda y, x: y.view(1, -1), "expected .N, K."),
        (lambda y, x: y.view(x.size(1), -1), "expected .N, K."),
        (lambda y, x: y.view(x.size(0), 2, 4), "expected .N, K."),
        (lambda y, x: y.squeeze(2), "squeeze, which has no quantized form"),
    ],
)
def test_other_views_are_errors(squeeze, message):
    with pytest.raises(InputError, match=message):
        quantized(Excited(squeeze, EXPANSIONS["view"]))
