"""What builders of quantized modules share: the conversion's side, and how a float pattern's arguments are read."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import fx

from oaq_repro.accumulator import Accumulator
from oaq_repro.quant.modules import QuantModule
from oaq_repro.quant.quantizers import ActivationQuantizer, WeightQuantizer


class Context(Protocol):
    """What a builder may ask of the conversion, for the layer at hand."""

    def output(self) -> ActivationQuantizer:
        """The output quantizer, with the activation that follows the node fused into it."""

    def weights(self) -> WeightQuantizer:
        """The weight quantizer."""

    def accumulator(self) -> tuple[Accumulator, str]:
        """The accumulator and why it was chosen."""

    def channels(self, node: fx.Node) -> int | None:
        """Number of channels of a node's value, None where it is not known."""


Built = tuple[QuantModule | None, list[fx.Node]]
"""None: the value is its input, unchanged."""
Builder = Callable[[fx.Node, Any, Context], Built]


def pair(value: int | tuple[int, int] | None, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """An int or pair as a pair."""
    if value is None:
        return default
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a function call by name, positions resolved."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
