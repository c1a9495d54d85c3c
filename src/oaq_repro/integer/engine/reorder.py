"""Order of channels that lets 16-bit sums be longer: an equal graph whose layers need fewer instructions.

The sums of a block are certified by its worst case, so a block is only as long as its unluckiest sum allows, and a
panel's blocks only as long as those of its unluckiest channel; and a single pair of products that could saturate takes
a panel to the exact route, whatever the mode. Where channels may stand elsewhere (channel_orders.py) they
are moved once, offline, and nothing at run time; what layers read whose result depends on the order keeps its own.

Method (our choice): for the heaviest reader of an order, channels are dealt to the halves of blocks of S steps, the
largest first, each to the half whose worst sum stays smallest. S is what the layer has now and twice as much. Then they
are dealt once more so that channels whose sums are short in the heaviest writer stand together, in few of its panels.
The order is kept for which all its readers and writers together are cheapest. Where sums stay in 16 bits throughout,
what is left are pairs of products that could saturate: channels are exchanged as long as fewer have to be taken apart.
"""

from dataclasses import dataclass, replace

import numpy as np

from oaq_repro import _kernels
from oaq_repro.integer.engine.channel_orders import ChannelOrders, is_dense
from oaq_repro.integer.engine.packing import Dense, pack_dense
from oaq_repro.integer.engine.routes import STEP_COST, ChannelFolds, Demand, InstructionSet, channel_folds, demand
from oaq_repro.integer.engine.sums import WHOLE, Permits, folded
from oaq_repro.integer.engine.taps import MAXIMUM, MINIMUM
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array, product_range
from oaq_repro.integer.graph.nodes import Layer, Shape

WORTH = 0.01  # what sorting a writer's channels has to gain, as a part of the time of all layers concerned
LARGEST_SUMS = 256  # the sums that are looked at while channels are dealt
LARGEST_EXCHANGED = 128  # channels, beyond which hardly a pair saturates in any order, and looking takes long


@dataclass(frozen=True, eq=False)
class Ordered:
    """A graph in the order that the engine compiles, and what is known of its layers, by name.

    demands: of the graph as it was given: where no input overflows its lanes or blocks, sums are exact, and stay so in
    another order, whose lanes and blocks could overflow. folds: of layers whose channels have been looked at.
    """

    graph: Graph
    demands: dict[str, Demand | None]
    folds: dict[str, ChannelFolds]


def as_given(graph: Graph, permits: Permits) -> Ordered:
    """The graph as it is."""
    demands = {layer.name: demand(layer, graph.qparams(layer.inputs[0]), permits) for layer in graph.layers()}
    return Ordered(graph, demands, {})


def reorder(graph: Graph, shapes: dict[str, Shape], permits: Permits, kernels: InstructionSet) -> Ordered:
    """The graph with channels in better orders; its outputs are the same bit for bit."""
    given = as_given(graph, permits)
    if permits.longest_fold == 0:
        return given
    orders = ChannelOrders(graph, shapes)
    permutations: dict[str, Array] = {}
    folds: dict[str, ChannelFolds] = {}
    for order in orders.free():
        layers = [layer for layer in graph.layers() if is_dense(layer)]
        readers = [orders.permuted(x, permutations) for x in layers if orders.find(x.inputs[0]) == order]
        writers = [orders.permuted(x, permutations) for x in layers if orders.find(x.name) == order]
        search = _Search(readers, writers, Ordered(graph, given.demands, folds), shapes, permits, kernels)
        folds |= search.known
        found = search.best()
        folds |= search.known_in(found)
        if found is not None:
            permutations[order] = found
            folds |= {layer.name: folds[layer.name].permuted(found) for layer in writers if layer.name in folds}
    nodes = tuple(orders.permuted(node, permutations) for node in graph.nodes)
    # Runs of dilated layers, and of those that are several convolutions, are other ones than were looked at.
    others = {node.name for node in nodes if isinstance(node, Layer) and not _is_plain(node)}
    known = {name: channels for name, channels in folds.items() if name not in others}
    return Ordered(replace(graph, nodes=nodes), given.demands, known)


class _Search:
    """For the best order of the channels that some layers write and others read (sum over)."""

    def __init__(
        self,
        readers: list[Layer],
        writers: list[Layer],
        known: Ordered,
        shapes: dict[str, Shape],
        permits: Permits,
        kernels: InstructionSet,
    ) -> None:
        self.readers, self.permits, self.kernels = readers, permits, kernels
        self.q = {layer.name: known.graph.qparams(layer.inputs[0]) for layer in (*readers, *writers)}
        self.work = {
            layer.name: float(np.prod(shapes[layer.name])) * layer.weight[0].size for layer in (*readers, *writers)
        }
        self.demands, self.known = known.demands, dict(known.folds)
        self.found: dict[tuple[str, bytes], ChannelFolds] = {}  # by reader and order
        self.reader = max(readers, key=lambda layer: self.work[layer.name])
        self.written = {layer.name: self._channel_costs(layer) for layer in writers}

    def best(self) -> Array | None:
        """A permutation, positions to channels; None where none that is tried is better than the order as it is."""
        if any(self.demands[layer.name] is None for layer in self.readers):
            return None
        now = np.arange(self.reader.weight.shape[1])
        least = self._cost(now)
        if least <= STEP_COST[WHOLE if self.permits.whole else folded(1)] * sum(self.work.values()):
            return None  # nothing can be better
        ranks = self._ranks(len(now))
        sort = self._writing(now) - self._writing(np.argsort(ranks, kind="stable")) > WORTH * sum(self.work.values())
        fold = max(int(np.median([route.fold for route in self.folds(self.reader, now).panels()])), 1)
        blocks = [b for b in (fold, 2 * fold) if 4 * b <= len(now)] if fold < self.kernels.folds[-1] else []
        best = None
        for block in blocks:
            order = self._deal(block, np.zeros_like(ranks))
            if (found := self._cost(order)) < least:
                best, least, fold = order, found, block
        if sort and (found := self._cost(order := self._deal(fold, ranks))) < least:
            best, least = order, found
        exchanged = self._exchanged(now if best is None else best)
        if exchanged is not None and self._cost(exchanged) < least:
            best = exchanged
        return best

    def _exchanged(self, order: Array) -> Array | None:
        """Channels exchanged so that fewer pairs are taken apart; None where no reader of single pixels has any."""
        readers = [layer for layer in self.readers if layer.kernel_weight[0, ..., 0].size == 1]
        readers = [layer for layer in readers if self.folds(layer, order).apart.any()]
        if not readers or len(order) > LARGEST_EXCHANGED:
            return None
        conflicts, costs = [], []
        for layer in readers:
            q, offset = self.q[layer.name], self.kernels.code_offset(self.q[layer.name])
            bits = _conflicts(layer.kernel_weight.reshape(-1, len(order)), -offset, q.q_max - offset)
            conflicts.append(bits)
            costs += [self.work[layer.name] / len(layer.weight)] * bits.shape[2]
        return _kernels.exchange(np.concatenate(conflicts, axis=2), costs, order.tolist())

    def _cost(self, order: Array) -> float:
        """Time of all layers, in that of a product in 16 bits throughout."""
        costs = self._writing(order)
        for layer in self.readers:
            costs += self.work[layer.name] * float(self.folds(layer, order).costs().mean())
        return costs

    def _writing(self, order: Array) -> float:
        """The writers' part: a panel costs what its worst channel does."""
        costs = 0.0
        for name, channels in self.written.items():
            panels = np.maximum.reduceat(channels[order], np.arange(0, len(channels), _kernels.PANEL))
            costs += self.work[name] * float(panels.mean())
        return costs

    def folds(self, layer: Layer, order: Array) -> ChannelFolds:
        """What the channels of a reader allow when its inputs are in that order, as `routes` finds it."""
        key = layer.name, order.tobytes()
        if key not in self.found:
            self.found[key] = self._channel_folds(layer, layer.kernel_weight[..., order])
        return self.found[key]

    def known_in(self, order: Array | None) -> dict[str, ChannelFolds]:
        """The readers' folds in an order, None: as it is, as far as they have been looked at."""
        key = (np.arange(self.reader.weight.shape[1]) if order is None else order).tobytes()
        return {name: channels for (name, tried), channels in self.found.items() if tried == key}

    def _channel_folds(self, layer: Layer, weight: Array) -> ChannelFolds:
        demanded = self.demands[layer.name]
        assert demanded is not None  # the callers have seen to it
        return channel_folds(_packed(weight), layer.bias, self.q[layer.name], demanded, self.permits, self.kernels)

    def _channel_costs(self, layer: Layer) -> Array:
        """Cost of every output channel as if it had a panel for itself: float64 [O]."""
        if self.demands[layer.name] is None:  # the scalar reference, whatever the order
            return np.ones(len(layer.weight))
        if layer.name not in self.known:
            self.known[layer.name] = self._channel_folds(layer, layer.kernel_weight)
        return self.known[layer.name].costs(width=1)

    def _ranks(self, channels: int) -> Array:
        """Of every channel by its cost in the heaviest writer, cheapest 0, then by the steps it takes apart: int64."""
        if not self.written:
            return np.zeros(channels, np.int64)
        heaviest = max(self.written, key=lambda name: self.work[name])
        keys = [self.written[heaviest][:, None]]
        if heaviest in self.known:
            keys.append(self.known[heaviest].apart)
        return np.unique(np.concatenate(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1)

    def _deal(self, block: int, ranks: Array) -> Array:
        """Channels dealt to halves of blocks of `block` steps, so that the reader's worst sums are even.

        Channels of a lower rank stand before those of a higher one.
        """
        weight, q = self.reader.kernel_weight, self.q[self.reader.name]
        channels, offset = weight.shape[3], self.kernels.code_offset(q)
        low, high = product_range(weight.transpose(3, 0, 1, 2).reshape(channels, -1), -offset, q.q_max - offset)
        reach = np.concatenate([high, -low], axis=1).astype(np.float32)  # [I, both signs of every output and tap]
        reach = reach[:, np.argsort(-reach.sum(0), kind="stable")[:LARGEST_SUMS]]
        return _kernels.deal(np.ascontiguousarray(reach), ranks.tolist(), block)


def _conflicts(weight: Array, lowest: int, highest: int) -> Array:
    """Where the products of two inputs can saturate, weights int8 [O, I]: bits uint64 [I, I, words] by panel."""
    low, high = (sums.T.astype(np.int32) for sums in product_range(weight, lowest, highest))
    saturates = (high[:, None] + high > MAXIMUM) | (low[:, None] + low < MINIMUM)
    panels = np.logical_or.reduceat(saturates, np.arange(0, len(weight), _kernels.PANEL), axis=2)
    padded = np.pad(panels, ((0, 0), (0, 0), (0, -panels.shape[2] % 64)))
    return np.ascontiguousarray(np.packbits(padded, axis=2)).view(np.uint64)


def _is_plain(layer: Layer) -> bool:
    return [part.window.dilation for part in layer.parts] == [(1, 1)]


def _packed(weight: Array) -> Dense:
    """As if there were no borders, on which no sum depends."""
    weight = np.ascontiguousarray(weight)
    return pack_dense(weight, weight.shape[2] * weight.shape[3], weight.shape[3], 0, (1, 1))
