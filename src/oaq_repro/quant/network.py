"""A network of quantized modules, and the ways to look into it."""

from torch import fx, nn

from oaq_repro.quant.conversion.trace import input_node, module_of
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.modules import QuantInput, QuantModule
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.quantizers import ActivationQuantizer


class QuantizedNetwork(fx.GraphModule):
    """The dense part as a graph of quantized modules."""

    # kept in `meta`, which torch.fx carries along when a graph module is copied

    @property
    def swapped(self) -> list[tuple[str, str, str]]:
        """(qualified name, float kind, quantized kind) of every node."""
        return self.meta["swapped"]

    @property
    def left_float(self) -> list[str]:
        """Names of the layers skipped on request."""
        return self.meta["left_float"]

    @property
    def own_bits(self) -> list[str]:
        """Names of the layers whose bits are not simply the common ones: first, last, or given by an override."""
        return self.meta["own_bits"]

    @property
    def sources(self) -> dict[str, str]:
        """For each layer the qualified name of the module whose quantizer made its input."""
        return self.meta["sources"]


def set_quantizing(model: nn.Module, quantizing: bool) -> None:
    """Switch between calibration (real tensors flow) and quantized execution (codes)."""
    for module in model.modules():
        if isinstance(module, QuantInput):
            module.quantizing = quantizing


def layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Convolutions and linear layers by qualified name, in execution order of the graph."""
    assert isinstance(model, fx.GraphModule)
    modules = ((node.target, module_of(model, node)) for node in model.graph.nodes)
    return {str(name): module for name, module in modules if isinstance(module, QuantLayer)}


def input_quantizer(model: QuantizedNetwork, layer: str) -> ActivationQuantizer:
    """The quantizer whose codes a layer reads."""
    quantizer = model.get_submodule(model.sources[layer]).output
    assert isinstance(quantizer, ActivationQuantizer)
    return quantizer


def input_qparams(model: QuantizedNetwork, layer: str) -> QParams:
    """The constants of a layer's input."""
    return input_quantizer(model, layer).parameters_of_range()


def layer_sources(model: fx.GraphModule) -> dict[str, str]:
    """For every layer the module whose quantizer made its input; scale-keeping modules are looked through."""
    origin: dict[fx.Node, str] = {}
    sources: dict[str, str] = {}
    for node in model.graph.nodes:
        module = module_of(model, node)
        if not isinstance(module, QuantModule):
            continue
        if isinstance(module, QuantLayer):
            sources[str(node.target)] = origin[input_node(node)]
        origin[node] = str(node.target) if module.output is not None else origin.get(input_node(node), "")
    return sources
