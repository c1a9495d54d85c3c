"""Fewer bits for the inputs of single layers: where they are requantized, and that integers stay the simulation."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from quant.networks import Classifier, Gated, Larger, Pyramid, images, quantized, trained
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.graph import Requantize
from oaq_repro.integer.reference import Reference
from oaq_repro.quant.config import Override
from oaq_repro.quant.mixed_precision.cost import layer_costs
from oaq_repro.quant.network import input_quantizer, layers


def narrowed(network, **bits):
    """Quantized, with these bits of the inputs of layers ("." is written "__")."""
    overrides = {name: Override(name.replace("__", "."), input_bits=b) for name, b in bits.items()}
    return quantized(trained(network), overrides=overrides)


def read(model):
    return {name: input_quantizer(model, name).bits for name in layers(model)}


def requantized(model):
    return [node.name for node in lower(model).nodes if isinstance(node, Requantize)]


class Branches(nn.Module):
    """Three layers and a sum read one tensor; two more read another through a pooling and a resize."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.c = (nn.Conv2d(8, 8, 1) for _ in range(3))
        self.d, self.e = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.a(x) + x) + self.b(x) + self.c(x)
        y = F.relu(x)
        return self.d(F.max_pool2d(y, 2)), self.e(F.interpolate(y, scale_factor=2))


def test_a_tensor_with_one_reader_is_made_with_its_bits():
    model = narrowed(Classifier(), depthwise__0=4, project__0=3)
    assert requantized(model) == []
    assert model.get_submodule("expand.0").output.bits == 4
    assert read(model) == {"stem.0": 8, "expand.0": 8, "depthwise.0": 4, "project.0": 3, "head": 8}


def test_where_others_read_more_bits_a_requantization_stands_before_the_layer():
    model = narrowed(Classifier(), expand__0=4)  # whose input the sum reads too
    assert requantized(model) == ["expand.0_input"]
    assert model.get_submodule("stem.0").output.bits == 8
    assert read(model)["expand.0"] == 4
    assert input_quantizer(model, "expand.0").activation == "relu" and input_quantizer(model, "expand.0").scalable


def test_layers_with_other_bits_have_each_their_own():
    model = narrowed(Branches(), a=4, b=2, c=4)
    assert {name: bits for name, bits in read(model).items() if name in "abc"} == {"a": 4, "b": 2, "c": 4}
    assert sorted(requantized(model)) == ["a_input", "b_input"]
    assert model.sources["a"] == model.sources["c"] == "a_input"


def test_a_tensor_is_narrow_as_a_whole_where_all_of_its_readers_are():
    assert requantized(narrowed(Branches(), d=4, e=5)) == ["d_input", "e_input"]
    model = narrowed(Branches(), d=4, e=4)
    assert requantized(model) == []
    assert (read(model)["d"], read(model)["e"]) == (4, 4)


def test_only_the_size_of_a_tensor_is_no_reading():
    model = narrowed(Pyramid(), pooled__0=4, fuse__0=5)
    assert (read(model)["pooled.0"], read(model)["fuse.0"], read(model)["left.0"]) == (4, 5, 8)


def test_the_image_too_and_its_factor_stays_one():
    model = narrowed(Classifier(), stem__0=5)
    assert read(model)["stem.0"] == 5 and not input_quantizer(model, "stem.0").scalable
    assert requantized(model) == []


def test_more_bits_than_there_are_change_nothing():
    overrides = {"fewer": Override("expand.0", activation_bits=3), "more": Override("depthwise.0", input_bits=6)}
    model = quantized(trained(Classifier()), overrides=overrides)
    assert read(model)["depthwise.0"] == 3 and requantized(model) == []


@pytest.mark.parametrize("network", [Classifier, Pyramid, Gated, Larger, Branches])
def test_integers_are_the_simulation(network):
    parent = trained(network())
    names = [name for name in layers(quantized(parent)) if name != "before"]
    for seed in range(3):
        bits = torch.Generator().manual_seed(seed)
        overrides = {
            name: Override(name, input_bits=int(torch.randint(2, 8, (), generator=bits)), weight_bits=4)
            for name in names
            if torch.rand((), generator=bits) < 0.7
        }
        model = quantized(copy.deepcopy(parent), accumulator="int32", overrides=overrides)
        x = images(3, 16, seed=5)
        with torch.no_grad():
            expected = model(x)
        expected = [expected] if torch.is_tensor(expected) else expected
        graph = lower(model)
        for found in (Reference(graph).run(x.numpy()).outputs, Engine(graph, (3, 16, 16)).run(x.numpy())):
            assert all(np.array_equal(a, b.numpy()) for a, b in zip(found, expected, strict=True))
        wanted = {name: override.input_bits for name, override in overrides.items()}
        assert {cost.name: cost.bits_input for cost in layer_costs(model, (3, 16, 16))} == {
            name: wanted.get(name, 8) for name in read(model)
        }


def test_fewer_bits_lengthen_the_certified_block():
    blocks = []
    for bits in (8, 6, 4, 2):
        graph = lower(narrowed(Classifier(), head=bits))
        head = next(layer for layer in graph.layers() if layer.name == "head")
        found = certify(head, graph.qparams(head.inputs[0]))
        assert graph.qparams(head.inputs[0]).q_max == 2**bits - 1
        blocks.append(found.longest_block)
    assert blocks == sorted(blocks) and blocks[0] < blocks[-1] == 8


def test_bits_of_inputs_are_for_layers():
    with pytest.raises(InputError, match=r"overrides.mine.input_bits: 'add' matches no layer"):
        quantized(trained(Classifier()), overrides={"mine": Override("add", input_bits=4)})
