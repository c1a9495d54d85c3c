"""What steps of a compiled program are made from: one value that all of them read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.integer.engine.by_rows import Strips
from oaq_repro.integer.engine.explain import LayerRoute
from oaq_repro.integer.engine.plan import Placement
from oaq_repro.integer.engine.reorder import Ordered
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import Permits
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import CodeNode, Layer, Lookup, QParams
from oaq_repro.integer.graph.windows import Window


@dataclass
class Compilation:
    """program: of the compiled module; steps are appended to it. placed: of every value of codes, by name.

    values, qparams: the same values as the program and as the graph know them. strips: the values of which some rows
    are held (by_rows.py). lookups: of layers whose codes have no place (plan.py). routes: of the layers appended so
    far. waiting: by the value that they make, parts of steps that are appended with its reader.
    """

    program: Any
    ordered: Ordered
    placed: dict[str, Placement]
    permits: Permits
    kernels: InstructionSet
    strips: Mapping[str, Strips]
    routes: list[LayerRoute] = field(default_factory=list)
    waiting: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    qparams: dict[str, QParams] = field(init=False)
    values: dict[str, Any] = field(init=False)
    lookups: dict[str, Lookup] = field(init=False)

    def __post_init__(self) -> None:
        """Name the values."""
        self.qparams = {node.name: node.output for node in self.ordered.graph.nodes if isinstance(node, CodeNode)}
        lookups = [node for node in self.ordered.graph.nodes if isinstance(node, Lookup)]
        self.lookups = {node.inputs[0]: node for node in lookups if node.inputs[0] not in self.placed}
        self.values = {
            name: _kernels.Value(
                place.inside, place.height, place.width, place.channels, *place.border, self.qparams[name].zero_point
            )
            for name, place in self.placed.items()
        }

    def source(self, node: Any, at: int = 0) -> QParams:
        """QParams of an input of a node."""
        return self.qparams[node.inputs[at]]

    def made(self, layer: Layer) -> str:
        """The value that a layer writes: its own, or that of the lookup."""
        return self.lookups[layer.name].name if layer.name in self.lookups else layer.name

    def table(self, layer: Layer) -> Array:
        """What the layer's codes become as they are written: uint8 [256], or empty."""
        lookup = self.lookups.get(layer.name)
        return np.zeros(0, np.uint8) if lookup is None else self.codes(lookup)

    def codes(self, lookup: Lookup) -> Array:
        """Its table, uint8 [256]; codes that the source does not have are as its last one, the fewest to tell apart."""
        source = self.source(lookup)
        table = lookup.codes(source)
        return np.concatenate([table[: source.q_max + 1], np.repeat(table[source.q_max], 255 - source.q_max)])

    def x(self, node: Any, at: int = 0) -> Any:
        """The program's value that is an input of a node."""
        return self.values[node.inputs[at]]


def kernel_window(window: Window) -> Any:
    """A window as the program takes it."""
    return _kernels.Window(*window.kernel, *window.stride, *window.padding, *window.dilation)


def quantization(q: QParams) -> Any:
    """QParams as the program takes them."""
    return _kernels.Quantization(float(q.scale), q.zero_point, q.q_max)
