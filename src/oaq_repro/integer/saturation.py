"""What saturating pairs of products do on given images (`audit` says where they can saturate on any). Our choice.

Every layer runs twice on the same exact codes, with exact sums and with pairs that saturate as x86 processors without
VNNI add them, so that what changed in earlier layers does not travel on.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.audit import Audit, Saturated, audit
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Layer, Node

TWIN = ".saturated"  # behind the name of a layer


def inexact(found: Audit) -> set[str]:
    """Names of the layers of which the audit does not say that they are exact."""
    return {row.name for row in found.layers if row.pairs != "exact"}


def with_saturating_pairs(graph: Graph, layers: Collection[str] | None = None) -> Graph:
    """What x86 processors without VNNI compute by ONNX Runtime's kernels.

    layers: names of those that saturate; by default what the audit does not call exact.
    """
    named = inexact(Audit(layers=audit(graph))) if layers is None else layers
    nodes = tuple(
        replace(node, accumulator=NAMED["pair_saturating"]) if isinstance(node, Layer) and node.name in named else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)


class PairCounter:
    """Counts, by layer, the output codes that are others with saturating pairs on the same exact input."""

    def __init__(self, graph: Graph, layers: Collection[str], input_shape: tuple[int, int, int], threads: int = 1):
        """layers: names of those to count in."""
        exact = graph.with_accumulator(NAMED["int32"])
        pairs = with_saturating_pairs(exact, layers)
        nodes: list[Node] = []
        for node, twin in zip(exact.nodes, pairs.nodes, strict=True):
            nodes += [node] if twin is node else [node, replace(twin, name=_twin(twin.name))]
        self._engine = Engine(replace(exact, nodes=tuple(nodes)), input_shape, threads, mode="fast", trace=True)
        named = [layer.name for layer in graph.layers() if layer.name in layers]
        self._counts = dict.fromkeys(named, Saturated(outputs=0, changed=0, images=0))

    def add(self, images: Array) -> None:
        """Images float32 [N, C, H, W]."""
        for image in images:
            self._engine.run(image[np.newaxis])
            for name, before in self._counts.items():
                codes, saturated = self._engine.value(name), self._engine.value(_twin(name))
                changed = int(np.count_nonzero(codes != saturated))
                self._counts[name] = Saturated(
                    outputs=before.outputs + codes.size,
                    changed=before.changed + changed,
                    images=before.images + (changed > 0),
                )

    @property
    def counts(self) -> dict[str, Saturated]:
        """By layer, of all images so far."""
        return dict(self._counts)


def _twin(name: str) -> str:
    return f"{name}{TWIN}"
