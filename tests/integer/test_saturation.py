"""What saturates on images is counted as the reference finds it."""

import numpy as np
from oracles.reference import small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.audit import Audit, audit
from oaq_repro.integer.reference import Reference
from oaq_repro.integer.saturation import PairCounter, inexact, with_saturating_pairs


def test_codes_that_change_are_those_of_the_reference_on_exact_inputs():
    network = small_network(seed=1)
    graph = network.graph.with_accumulator(NAMED["int32"])
    saturating = with_saturating_pairs(graph)
    named = [layer for layer in saturating.layers() if layer.accumulator.overflow == "saturate"]
    assert named and {layer.name for layer in named} == inexact(Audit(layers=audit(network.graph)))
    counter = PairCounter(network.graph, {layer.name for layer in named}, network.images.shape[1:])
    for images in (network.images[:2], network.images[2:]):
        counter.add(images)
    counts = counter.counts
    assert counts.keys() == {layer.name for layer in named}
    values = Reference(graph).run(network.images, trace=True).values
    for layer in named:
        codes, expected = (np.moveaxis(values[name], 1, -1) for name in (layer.inputs[0], layer.name))
        found = layer.reference([np.ascontiguousarray(codes)], [saturating.qparams(layer.inputs[0])])
        differs = (found != expected).reshape(len(found), -1)
        assert (counts[layer.name].changed, counts[layer.name].outputs) == (differs.sum(), differs.size)
        assert counts[layer.name].images == differs.any(1).sum()
    assert any(count.changed for count in counts.values())


def test_only_layers_that_are_named_saturate():
    graph = small_network(seed=1).graph
    first = graph.layers()[0].name
    found = with_saturating_pairs(graph, {first})
    assert [layer.name for layer in found.layers() if layer.accumulator.overflow == "saturate"] == [first]
    assert PairCounter(graph, (), small_network(seed=1).images.shape[1:]).counts == {}
