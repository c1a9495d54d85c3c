"""Counts by hand, and figures of the papers that need no training."""

import math

import pytest
import torch
import torchvision
from quant.networks import Classifier, Larger, quantized, trained
from torch import nn
from torchvision.models.resnet import Bottleneck

from oaq_repro.deploy.lower import lower
from oaq_repro.quant.config import Override
from oaq_repro.quant.mixed_precision.cost import bit_operations, layer_costs, network_cost, sparse_bit_operations
from oaq_repro.quant.network import layers


def jets(bits, first):
    """QAP's network, dense: its bit operations with inputs of `first` bits at the first layer."""
    sizes = [(16, 64), (64, 32), (32, 32), (32, 5)]
    return sum(sparse_bit_operations(n * m, n, 1.0, bits, bits if i else first) for i, (n, m) in enumerate(sizes))


@pytest.mark.parametrize(
    ("bits", "first", "published"),
    [(32, 32, 4_652_832), (12, 32, 1_003_552), (8, 32, 583_968), (6, 32, 412_960), (4, 32, 267_808), (6, 6, 226_592)],
)
def test_qap_counts_its_network_as_published(bits, first, published):
    assert jets(bits, first) == published


def resnet(depth):
    """The networks of HAWQ-V3: in its ResNet-50, as in the first one, the 1x1 convolution has the stride."""
    network = getattr(torchvision.models, f"resnet{depth}")().eval()
    for module in network.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return network


@pytest.mark.parametrize(("depth", "float32", "int8"), [(18, 1858, 116), (50, 3951, 247)])
def test_hawq_counts_its_networks_as_published(depth, float32, int8):
    costs = layer_costs(resnet(depth), (3, 224, 224))
    assert round(network_cost(costs).bops / 1e9) == float32
    assert round(sum(bit_operations(x.macs, 8, 8) for x in costs) / 1e9) == int8


def test_float_layers_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 4 x 4 outputs
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 8 x 8 outputs, each from one of 4 x 4 inputs
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()
    costs = layer_costs(network, (3, 8, 8))
    assert [x.macs for x in costs] == [16 * 8 * 27, 16 * 8 * 9, 64 * 4 * 8, 20]
    assert [x.depth for x in costs] == [27, 9, 32, 4]
    assert [x.weights for x in costs] == [216, 72, 128, 20]
    total = network_cost(costs)
    assert total.macs == sum(x.macs for x in costs)
    assert total.bops == 1024 * total.macs
    assert (total.weight_bytes, total.density) == (4 * 436, 1.0)


def test_a_linear_layer_on_a_sequence_multiplies_at_every_place():
    (cost,) = layer_costs(nn.Sequential(nn.Flatten(2), nn.Linear(16, 2)).eval(), (3, 4, 4))
    assert cost.macs == 3 * 32


def test_zeros_lower_the_density_and_one_of_the_formulas():
    layer = nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.weight[:3] = 0
    total = network_cost(layer_costs(layer.eval(), (4, 2, 2)))
    assert total.density == 0.25
    assert total.bops == bit_operations(64, 32, 32)
    assert total.bops_qap == 64 * (256 + 64 + math.log2(4))


def test_shared_weights_are_stored_once_and_multiplied_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.head(self.head(x))

    network = Twice().eval()
    assert network_cost(layer_costs(network, (3, 4, 4))).macs == 2 * 16 * 9
    total = network_cost(layer_costs(quantized(network), (3, 4, 4)))
    assert (total.macs, total.weight_bytes) == (2 * 16 * 9, 9)


@pytest.mark.parametrize("network", [Classifier, Larger])
def test_quantized_layers_multiply_as_the_float_ones_and_the_integer_graph_do(network):
    parent = trained(network())
    expected = {x.name: x.macs for x in layer_costs(parent, (3, 16, 16))}
    model = quantized(parent)
    found = {x.name: x.macs for x in layer_costs(model, (3, 16, 16))}
    assert found == expected
    graph = lower(model)
    shapes = graph.shapes((3, 16, 16))
    for layer in graph.layers():
        if layer.name not in ("up.0", "wide"):  # outputs that are cropped
            assert found[layer.name] == layer.products(shapes[layer.name])


def test_bits_are_those_of_the_weights_and_of_what_the_layer_reads():
    overrides = {
        "a": Override("expand.0", weight_bits=4),
        "b": Override("depthwise.0", activation_bits=5),
        "c": Override("head", skip=True),
    }
    costs = {x.name: x for x in layer_costs(quantized(trained(Classifier()), overrides=overrides), (3, 16, 16))}
    assert (costs["expand.0"].bits_weight, costs["expand.0"].bits_input) == (4, 8)
    assert (costs["project.0"].bits_weight, costs["project.0"].bits_input) == (8, 5)
    (left,) = (x for name, x in costs.items() if name.startswith("head"))
    assert (left.bits_weight, left.bits_input) == (32, 32)


def test_counting_leaves_the_network_as_it_was():
    model = quantized(trained(Classifier()))
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    layer_costs(model, (3, 16, 16))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(layer._forward_hooks for layer in layers(model).values())
