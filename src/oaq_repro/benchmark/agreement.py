"""What results a network has to give, and how far others are from them. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.audit import audit
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Layer


@dataclass(frozen=True)
class Agreement:
    """Of a variant's outputs with those expected. difference: the largest, as a part of the largest output."""

    equal: bool
    difference: float
    cosine: float


def compare(found: Sequence[Array], expected: Sequence[Array]) -> Agreement:
    """All outputs together; nothing agrees where a shape differs or a value is not finite."""
    if [a.shape for a in found] != [b.shape for b in expected] or not all(np.isfinite(a).all() for a in found):
        return Agreement(False, float("inf"), 0.0)
    a, b = (np.concatenate([array.ravel() for array in arrays]).astype(np.float64) for arrays in (found, expected))
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Agreement(
        equal=bool(np.array_equal(a, b)),
        difference=float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)),
        cosine=float(a @ b) / scale if scale else float(np.array_equal(a, b)),
    )


def with_saturating_pairs(graph: Graph) -> Graph:
    """What x86 processors without VNNI compute by ONNX Runtime's kernels (`integer.audit`)."""
    exact = {row.name for row in audit(graph) if row.pairs == "exact"}
    nodes = tuple(
        replace(node, accumulator=NAMED["pair_saturating"])
        if isinstance(node, Layer) and node.name not in exact
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
