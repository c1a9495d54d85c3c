"""What steps of a compiled program are made from: one value that all of them read."""

from dataclasses import dataclass, field
from typing import Any

from oaq_repro import _kernels
from oaq_repro.integer.engine.explain import LayerRoute
from oaq_repro.integer.engine.plan import Placement
from oaq_repro.integer.engine.reorder import Ordered
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import Permits
from oaq_repro.integer.graph.nodes import CodeNode, QParams
from oaq_repro.integer.graph.windows import Window


@dataclass
class Compilation:
    """program: of the compiled module; steps are appended to it. placed: of every value of codes, by name.

    values, qparams: the same values as the program and as the graph know them. routes: of the layers appended so far.
    """

    program: Any
    ordered: Ordered
    placed: dict[str, Placement]
    permits: Permits
    kernels: InstructionSet
    routes: list[LayerRoute] = field(default_factory=list)
    qparams: dict[str, QParams] = field(init=False)
    values: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Name the values."""
        self.qparams = {node.name: node.output for node in self.ordered.graph.nodes if isinstance(node, CodeNode)}
        self.values = {
            name: _kernels.Value(
                place.inside, place.height, place.width, place.channels, *place.border, self.qparams[name].zero_point
            )
            for name, place in self.placed.items()
        }

    def source(self, node: Any, at: int = 0) -> QParams:
        """QParams of an input of a node."""
        return self.qparams[node.inputs[at]]

    def x(self, node: Any, at: int = 0) -> Any:
        """The program's value that is an input of a node."""
        return self.values[node.inputs[at]]


def kernel_window(window: Window) -> Any:
    """A window as the program takes it."""
    return _kernels.Window(*window.kernel, *window.stride, *window.padding, *window.dilation)


def quantization(q: QParams) -> Any:
    """QParams as the program takes them."""
    return _kernels.Quantization(float(q.scale), q.zero_point, q.q_max)
