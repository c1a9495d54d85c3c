"""A graph as a compiled program: a node is a step of it."""

from collections.abc import Mapping
from typing import Any

from oaq_repro.integer.engine.by_rows import Strips
from oaq_repro.integer.engine.context import Compilation
from oaq_repro.integer.engine.explain import LayerRoute
from oaq_repro.integer.engine.plan import Placement
from oaq_repro.integer.engine.reorder import Ordered
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.steps import append
from oaq_repro.integer.engine.sums import Permits


def compile_graph(
    program: Any,
    ordered: Ordered,
    placed: dict[str, Placement],
    permits: Permits,
    kernels: InstructionSet,
    strips: Mapping[str, Strips],
) -> tuple[dict[str, Any], tuple[LayerRoute, ...]]:
    """Append every node to the program; returns the values by name and the routes of the layers."""
    compilation = Compilation(program, ordered, placed, permits, kernels, strips)
    for node in ordered.graph.nodes:
        append(node, compilation)
    return compilation.values, tuple(compilation.routes)
