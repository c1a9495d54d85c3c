from dataclasses import replace

import numpy as np
import pytest
from oracles.reference import around, conv, conv2d, q, small_network

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.graph import Conv
from oaq_repro.integer.operand_bits import TOGETHER, operand_overflow
from oaq_repro.integer.reference import Reference


def rounded(values, top, full):
    """Codes on a grid whose largest code is `top` instead of `full`, by Python's own rounding (half to even)."""
    return np.array([round(int(v) * top / full) for v in np.asarray(values).reshape(-1)]).reshape(np.shape(values))


def test_counts_are_those_of_loops_over_everything():
    network = small_network(seed=3)
    images, policy = network.images[:2], Accumulator(bits=13)
    values = Reference(network.graph).run(images, trace=True).values
    counts = {(c.bits, c.layer): c for c in operand_overflow(network.graph, [images], policy, bits=(4, 6, 8))}
    for layer in (network.graph.node("project"), network.graph.node("dilated"), network.graph.node("classifier")):
        source = network.graph.qparams(layer.inputs[0])
        codes, weight, fields = values[layer.inputs[0]], layer.weight, {}
        if isinstance(layer, Conv):
            fields = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
        else:
            codes, weight = codes[:, :, None, None], weight[:, :, None, None]
        for bits in (4, 6, 8):
            x = rounded(codes, 2**bits - 1, 255).transpose(0, 2, 3, 1).astype(np.uint8)
            w = rounded(weight, 2 ** (bits - 1) - 1, 127).transpose(0, 2, 3, 1).astype(np.int8)
            z = round(source.zero_point * (2**bits - 1) / 255)
            _, events, _, _ = conv2d(x, w, z, policy=policy, **fields)
            found = counts[bits, layer.name]
            assert (found.events, found.outputs, found.images) == (int(events.sum()), events.size, 2)
            assert found.images_affected == int(events.reshape(2, -1).any(axis=1).sum())


def test_eight_bits_are_the_network_itself():
    policy = Accumulator(bits=14)
    network = small_network(accumulator=policy)
    counts = {
        c.layer: c for c in operand_overflow(network.graph, [network.images[:3], network.images[3:]], policy, (8,))
    }
    first = Reference(network.graph).run(network.images)
    assert counts["stem"].events == first.events["stem"].sum()  # later layers read wrapped sums there, exact ones here
    assert counts["stem"].images == 5 and counts["stem"].images_affected == (first.events["stem"] > 0).sum()
    together = counts.pop(TOGETHER)
    assert together.events == sum(count.events for count in counts.values())
    assert together.outputs == sum(count.outputs for count in counts.values())


def test_images_are_counted_once_whatever_overflows_in_them():
    layers = [conv(name, "x", q(), q(), np.full((1, 1, 1, 1), 127)) for name in ("a", "b")]
    graph = around(*layers, source=q(), outputs=("a", "b"))
    images = np.array([255, 0, 255], np.float32).reshape(3, 1, 1, 1)
    together, *single = operand_overflow(graph, [images], Accumulator(bits=15), bits=(8,))
    assert (together.events, together.outputs, together.images_affected, together.images) == (4, 6, 2, 3)
    assert [(count.events, count.images_affected) for count in single] == [(2, 2), (2, 2)]


def test_layers_with_an_accumulator_of_their_own_are_left_out():
    kept = replace(conv("a", "x", q(), q(), np.full((1, 1, 1, 1), 127)), accumulator_reason="asked for")
    last = replace(conv("b", "a", q(), q(), np.full((1, 1, 1, 1), 127)), accumulator_reason="few outputs")
    image = np.full((1, 1, 1, 1), 255, np.float32)
    found = operand_overflow(around(kept, last, source=q()), [image], bits=(8,))
    assert [count.layer for count in found] == [TOGETHER, "a"]
    with pytest.raises(InputError, match="expected layers that keep the network's"):
        operand_overflow(around(replace(last, inputs=("x",)), source=q()), [image])


@pytest.mark.parametrize(
    ("bits", "batches", "message"), [((9,), 1, "2 to 8"), ((), 1, "2 to 8"), ((8,), 0, "found none")]
)
def test_bad_input(bits, batches, message):
    network = small_network()
    with pytest.raises(InputError, match=message):
        operand_overflow(network.graph, [network.images] * batches, bits=bits)
