"""Which values of a graph share an order of channels, and its layers with their constants in other orders.

Where the channels of a value stand is free as long as all who write or read it agree: the producers' output channels
and the consumers' input channels are permuted. Values that depthwise layers, sums, pools and resizes connect share one
order; the image, outputs, joined values and grouped layers keep theirs.
"""

from typing import TypeVar

from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Layer, Node, Shape

AnyNode = TypeVar("AnyNode", bound=Node)


class ChannelOrders:
    """Which values share an order of channels: a union-find over names; `FIXED` is the order that nobody may change."""

    FIXED = "\0fixed"

    def __init__(self, graph: Graph, shapes: dict[str, Shape]) -> None:
        self.graph = graph
        self.parent = {name: name for name in (self.FIXED, graph.input_name, *(node.name for node in graph.nodes))}
        for node in graph.nodes:
            shared = node.channel_sources([shapes[name] for name in node.inputs])
            if shared is None:
                self.join(self.FIXED, node.name, *node.inputs)
            else:
                self.join(node.name, *shared)

    def find(self, name: str) -> str:
        """The representative of a value's order."""
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, first: str, *others: str) -> None:
        """Give all the same order."""
        for other in others:
            self.parent[self.find(other)] = self.find(first)

    def free(self) -> list[str]:
        """The orders of dense layers' inputs that may change, in the direction of the graph."""
        inputs = [self.find(layer.inputs[0]) for layer in self.graph.layers() if is_dense(layer)]
        return [order for order in dict.fromkeys(inputs) if order != self.find(self.FIXED)]

    def permuted(self, node: AnyNode, permutations: dict[str, Array]) -> AnyNode:
        """A node with its constants in the new orders."""
        before, after = (permutations.get(self.find(name)) for name in (node.inputs[0], node.name))
        return node.permuted(before, after)


def is_dense(layer: Layer) -> bool:
    """Whether every output reads all input channels."""
    return layer.channel_groups == 1
