"""Order of channels that lets certified sums be longer: an equal graph whose layers can stay in 16 bits for more steps.

The sums of a block are certified by its worst case, so a block is only as long as its unluckiest sum allows. Where the
channels of a value stand is free as long as all who write or read it agree: the producers' output channels and the
consumers' input channels are permuted once, offline, and nothing is moved at run time. Values that depthwise layers,
sums, pools and resizes connect share one order; the image, outputs, joined values and grouped layers keep theirs.

Method (our choice): for the heaviest reader of an order, channels are dealt to the halves of blocks of S steps, the
largest first, each to the half whose worst sum stays smallest. S is what the layer has now and twice as much; an order
is kept where all its readers together get cheaper.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.nodes import (
    Add,
    AvgPool,
    Conv,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Node,
    QParams,
    Requantize,
    Resize,
)
from oaq_repro.integer.packing import pack_dense, product_range
from oaq_repro.integer.routes import Demand, InstructionSet, dense_folds
from oaq_repro.integer.shapes import Shape

Array = np.ndarray[Any, Any]
# Time of a layer by fold, as a multiple of fold 0: medians over the convolutions of MobileNets and ResNets that
# `scripts/benchmark.py kernels` times (AVX2). Only their order and rough size matter.
STEP_COST = {0: 1.0, 16: 1.14, 8: 1.15, 4: 1.18, 2: 1.3, 1: 1.46, _kernels.EXACT: 1.97}

LARGEST_SUMS = 256  # the sums that are looked at while channels are dealt


def reorder(graph: Graph, shapes: dict[str, Shape], kernels: InstructionSet) -> Graph:
    """The graph with channels in better orders; its outputs are the same bit for bit."""
    orders = _Orders(graph, shapes)
    permutations: dict[str, Array] = {}
    for order, readers in orders.readers().items():
        found = _best_permutation(readers, graph, shapes, kernels)
        if found is not None:
            permutations[order] = found
    return replace(graph, nodes=tuple(orders.permuted(node, permutations) for node in graph.nodes))


class _Orders:
    """Which values share an order of channels: a union-find over names; `FIXED` is the order that nobody may change."""

    FIXED = "\0fixed"

    def __init__(self, graph: Graph, shapes: dict[str, Shape]) -> None:
        self.graph = graph
        self.parent = {name: name for name in (self.FIXED, graph.input_name, *(node.name for node in graph.nodes))}
        for node in graph.nodes:
            match node:
                case Conv() if node.groups == 1:
                    pass
                case Linear():
                    pass
                case Add():
                    self.join(node.name, *node.inputs)
                case Requantize() | MaxPool() | AvgPool() | GlobalAvgPool() | Resize():
                    self.join(node.name, node.inputs[0])
                case Conv() if node.groups == len(node.weight) == shapes[node.inputs[0]][0]:
                    self.join(node.name, node.inputs[0])
                case Flatten() if int(np.prod(shapes[node.inputs[0]][1:])) == 1:
                    self.join(node.name, node.inputs[0])
                case _:
                    self.join(self.FIXED, node.name, *node.inputs)

    def find(self, name: str) -> str:
        """The representative of a value's order."""
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, first: str, *others: str) -> None:
        """Give all the same order."""
        for other in others:
            self.parent[self.find(other)] = self.find(first)

    def readers(self) -> dict[str, list[Layer]]:
        """The layers that sum over the channels of each order that may change."""
        readers: dict[str, list[Layer]] = defaultdict(list)
        for node in self.graph.nodes:
            if isinstance(node, Linear) or (isinstance(node, Conv) and node.groups == 1):
                order = self.find(node.inputs[0])
                if order != self.find(self.FIXED):
                    readers[order].append(node)
        return readers

    def permuted(self, node: Node, permutations: dict[str, Array]) -> Node:
        """A layer with its constants in the new orders; other nodes as they are."""
        if not isinstance(node, Conv | Linear):
            return node
        before, after = (permutations.get(self.find(name)) for name in (node.inputs[0], node.name))
        weight = node.weight
        if before is not None and (isinstance(node, Linear) or node.groups == 1):
            weight = weight[:, before]
        if after is None:
            return replace(node, weight=np.ascontiguousarray(weight))
        return replace(
            node,
            weight=np.ascontiguousarray(weight[after]),
            bias=node.bias[after],
            weight_scale=node.weight_scale[after],
            multiplier=node.multiplier[after],
        )


def _best_permutation(
    readers: list[Layer], graph: Graph, shapes: dict[str, Shape], kernels: InstructionSet
) -> Array | None:
    """The permutation of the readers' input channels that makes them cheapest together; None: as it is."""
    work = {layer.name: float(np.prod(shapes[layer.name])) * layer.weight[0].size for layer in readers}
    heaviest = max(readers, key=lambda layer: work[layer.name])
    q = graph.qparams(heaviest.inputs[0])

    def cost(order: Array | slice) -> tuple[float, int]:
        costs, fold = 0.0, 0
        for layer in readers:
            folds = _folds(_weight(layer)[..., order], layer.bias, graph.qparams(layer.inputs[0]), kernels)
            costs += work[layer.name] * float(np.mean([STEP_COST[f] for f in folds.tolist()]))
            if layer is heaviest:
                fold = max(int(np.median(folds)), 1)
        return costs, fold

    least, fold = cost(slice(None))
    if fold >= kernels.folds[-1]:
        return None
    best = None
    for block in (fold, 2 * fold):
        if 4 * block > heaviest.weight.shape[1] or block > kernels.folds[-1]:
            continue
        order = _deal(_weight(heaviest), q, kernels, block)
        found, _ = cost(order)
        if found < least:
            least, best = found, order
    return best


def _weight(layer: Layer) -> Array:
    """int8 [O, kh, kw, I]."""
    return layer.weight.transpose(0, 2, 3, 1) if isinstance(layer, Conv) else layer.weight[:, None, None, :]


def _folds(weight: Array, bias: Array, q: QParams, kernels: InstructionSet) -> Array:
    """The fold of every panel in the mode `certified`, as `routes` chooses it."""
    weight = np.ascontiguousarray(weight)
    packed = pack_dense(weight, weight.shape[2] * weight.shape[3], weight.shape[3], 0, (1, 1))
    return np.array(dense_folds(packed, bias, q, Demand(32, "certified"), "certified", kernels))


def _deal(weight: Array, q: QParams, kernels: InstructionSet, block: int) -> Array:
    """Channels dealt to halves of blocks of `block` steps, so that the worst sums are even: positions to channels."""
    channels = weight.shape[3]
    offset = kernels.code_offset(q)
    low, high = product_range(weight.transpose(3, 0, 1, 2).reshape(channels, -1), -offset, q.q_max - offset)
    reach = np.concatenate([high, -low], axis=1).astype(np.float32)  # [I, both signs of every output and tap]
    reach = reach[:, np.argsort(-reach.sum(0), kind="stable")[:LARGEST_SUMS]]
    position = np.arange(channels)
    half = position // (4 * block) * 2 + position % 4 // 2
    room = np.bincount(half)
    sums = np.zeros((len(room), reach.shape[1]), np.float32)
    dealt: list[list[int]] = [[] for _ in room]
    for channel in np.argsort(-reach.max(1), kind="stable").tolist():
        worst = (sums + reach[channel]).max(1)
        worst[room == 0] = np.inf
        chosen = int(worst.argmin())
        sums[chosen] += reach[channel]
        room[chosen] -= 1
        dealt[chosen].append(channel)
    order = np.empty(channels, np.int64)
    for index, group in enumerate(dealt):
        order[np.flatnonzero(half == index)] = group
    return order
