"""Where every value of a graph lies in the engine's arena: borders for padding, memory shared over time. Our choice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from oaq_repro import _kernels
from oaq_repro.integer.engine.by_rows import Strips
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.nodes import CodeNode, Layer, Lookup, Shape

ALIGNMENT = 64


@dataclass(frozen=True)
class Placement:
    """A value of codes, NHWC with a border: sizes in pixels, `offset` of its first byte, border included."""

    offset: int
    height: int
    width: int
    channels: int
    border: tuple[int, int]

    @property
    def row(self) -> int:
        """Bytes of a row of pixels, border included."""
        return (self.width + 2 * self.border[1]) * self.channels

    @property
    def inside(self) -> int:
        """Offset of the first code within the border."""
        return self.offset + self.border[0] * self.row + self.border[1] * self.channels

    @property
    def size(self) -> int:
        """Bytes, aligned, with what kernels may read beyond."""
        used = (self.height + 2 * self.border[0]) * self.row + _kernels.SLACK
        return -(-used // ALIGNMENT) * ALIGNMENT


def place(
    graph: Graph, shapes: dict[str, Shape], share: bool, strips: Mapping[str, Strips] | None = None, threads: int = 1
) -> tuple[dict[str, Placement], int]:
    """Placement of every value of codes, and the arena's bytes.

    `share`: values that are never needed at the same time may lie in the same memory. A layer's codes that a lookup
    alone reads then have no place at all: the layer writes what the lookup makes of them. strips: values of which some
    rows are held for every thread, while the layer that reads them runs.
    """
    strips = strips or {}
    looked_up = _looked_up(graph) if share else {}
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    at = {node.name: index for index, node in enumerate(graph.nodes)}
    for found in strips.values():
        source = graph.nodes[at[found.dense]].inputs[0]
        last[source] = max(last[source], at[found.depthwise])
    borders = _borders(graph)
    placed: dict[str, Placement] = {}
    lives: dict[str, tuple[int, int]] = {}
    unplaced = []
    for index, node in enumerate(graph.nodes):
        if isinstance(node, CodeNode) and node.name not in looked_up:
            shape = shapes[node.name]
            channels, height, width = (*shape, 1, 1)[:3]
            border = borders.get(node.name, (0, 0))
            born = looked_up.get(node.inputs[0], index)
            if node.name in strips:
                height, border = strips[node.name].held * threads, (0, border[1])
                born = at[strips[node.name].depthwise]
            placed[node.name] = Placement(0, height, width, channels, border)
            lives[node.name] = (born, last.get(node.name, index) if share else len(graph.nodes))
            unplaced.append(node.name)
    # Largest first, each at the lowest place that no value of an overlapping life holds.
    done: list[str] = []
    for name in sorted(unplaced, key=lambda name: -placed[name].size):
        value, (born, dies) = placed[name], lives[name]
        taken = sorted(
            (placed[other].offset, placed[other].offset + placed[other].size)
            for other in done
            if lives[other][0] <= dies and born <= lives[other][1]
        )
        offset = 0
        for first, end in taken:
            if offset + value.size <= first:
                break
            offset = max(offset, end)
        placed[name] = Placement(offset, value.height, value.width, value.channels, value.border)
        done.append(name)
    return placed, max(value.offset + value.size for value in placed.values())


def _looked_up(graph: Graph) -> dict[str, int]:
    """Layers whose codes a lookup alone reads, and their places among the nodes."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    alone = {node.inputs[0] for node in graph.nodes if isinstance(node, Lookup) and readers[node.inputs[0]] == 1}
    return {
        node.name: index for index, node in enumerate(graph.nodes) if isinstance(node, Layer) and node.name in alone
    }


def _borders(graph: Graph) -> dict[str, tuple[int, int]]:
    """The widest padding that readers of a value ask for, of height and width: borders are the same at both ends."""
    borders: dict[str, tuple[int, int]] = {}
    for node in graph.nodes:
        before = borders.get(node.inputs[0], (0, 0))
        top, left, bottom, right = node.border
        borders[node.inputs[0]] = (max(before[0], top, bottom), max(before[1], left, right))
    return borders
