"""Float network -> graph of quantized modules."""

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.config import ROLES, Override, QuantizationConfig
from oaq_repro.quant.conversion.building import Built
from oaq_repro.quant.conversion.compose import compose
from oaq_repro.quant.conversion.ordinary import simplify
from oaq_repro.quant.conversion.overrides import LayerOverrides
from oaq_repro.quant.conversion.padding import fold_padding, padding_before
from oaq_repro.quant.conversion.patterns import OWN, PATTERNS, activation_of
from oaq_repro.quant.conversion.places import placed
from oaq_repro.quant.conversion.sizes import note_shapes
from oaq_repro.quant.conversion.trace import fold, input_node, kind_of, module_of, reads_sizes, tensor_inputs
from oaq_repro.quant.elementwise import QuantElementwise, constant_beyond, elementwise_function
from oaq_repro.quant.layers import QuantLayer, QuantSkip
from oaq_repro.quant.mixed_precision.input_bits import InputBits
from oaq_repro.quant.modules import QuantInput, QuantModule, QuantOutput, QuantRequantize
from oaq_repro.quant.network import QuantizedNetwork, layer_sources
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, QuantizerFactory, WeightQuantizer
from oaq_repro.quant.select import is_parts

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def quantize_network(
    dense: nn.Module,
    factory: QuantizerFactory,
    config: QuantizationConfig,
    input_shape: Sequence[int] | None = None,
) -> QuantizedNetwork:
    """Fold batch norm and replace every node by its quantized module (table: `patterns.py`).

    dense: image [N, C, H, W] -> tensor or tuple of tensors. The result is in calibration mode.
    input_shape: [C, H, W] of the images. What depends on sizes is resolved for it: TensorFlow's "same" padding,
    adaptive pooling, resizes to a size. Networks without any of these need none, and run at all sizes.
    Raises InputError for a node without a quantized form and for an override that matches nothing.
    """
    skipped = [o.match for o in config.overrides.values() if o.skip and o.match not in ROLES]
    model = compose(fold(dense, input_shape, skipped))
    if input_shape is not None:
        note_shapes(model, input_shape)
    simplify(model)
    fold_padding(model, lambda node: activation_of(node, module_of(model, node)) is not None)
    return _Conversion(model, factory, config).run()


class _Conversion:
    """One conversion; also the `Context` that the builders of `patterns.py` ask."""

    def __init__(self, model: fx.GraphModule, factory: QuantizerFactory, config: QuantizationConfig) -> None:
        self.model, self.factory, self.config = model, factory, config
        self.graph = model.graph
        self.kinds: list[tuple[str, str, str]] = []
        self.own_bits: list[str] = []
        self.inputs = InputBits(model, factory)
        self.settings = LayerOverrides(model, config.overrides)
        self.left_float: list[str] = []
        self.name = ""
        self.activation: Activation = "none"
        self.overrides: list[Override] = []
        self.parameters: dict[tuple[Any, Any], tuple[nn.Parameter, nn.Parameter]] = {}  # by those of the float layer
        self.counts: dict[fx.Node, int | None] = {}  # channels of the new nodes' values
        self.sizes: set[fx.Node] = set()  # nodes whose values are sizes, not tensors

    # -- what builders ask ---------------------------------------------------------------------------------

    def _setting(self, name: str, default: Any) -> Any:
        values = [getattr(o, name) for o in self.overrides if getattr(o, name) is not None]
        return values[-1] if values else default

    def _skipped(self) -> bool:
        return any(o.skip for o in self.overrides)

    def output(self) -> ActivationQuantizer:
        bits = self._setting("activation_bits", self.config.activation_bits)
        return self.factory.activation_quantizer(bits, self.activation, self.config.observer, True)

    def weights(self) -> WeightQuantizer:
        config = self.config
        quantizer = self.factory.weight_quantizer(self._setting("weight_bits", config.weight_bits), config.per_channel)
        if config.granularity == "tensor":
            quantizer.granularity = "tensor"
        return quantizer

    def accumulator(self) -> tuple[Accumulator, str]:
        chosen = [o for o in self.overrides if o.accumulator is not None]
        if chosen:
            return chosen[-1].accumulator, f"{chosen[-1].match}: {chosen[-1].reason}"  # type: ignore[return-value]
        return self.config.accumulator, "asked for"

    def channels(self, node: fx.Node) -> int | None:
        return self.counts.get(node)

    # -- the conversion ------------------------------------------------------------------------------------

    def run(self) -> QuantizedNetwork:
        for node in list(self.graph.nodes):
            if node.op == "placeholder":
                self._insert_input(node)
            elif node.op == "output":
                self._insert_outputs(node)
            elif node.op in ("call_module", "call_function", "call_method") and not self._absorbed(node):
                with placed(node, module_of(self.model, node)):
                    self._convert(node)
        self.settings.check([name for name, _, kind in self.kinds if kind.startswith(("QuantConv", "QuantLinear"))])
        self.graph.eliminate_dead_code()
        self.inputs.merge()
        self.model.delete_all_unused_submodules()
        result = QuantizedNetwork(self.model, self.graph, "QuantizedNetwork")
        alive = {node.target for node in self.graph.nodes}
        self.kinds = [kind for kind in self.kinds if kind[0] in alive]  # selections of selections skip the first
        result.meta.update(swapped=self.kinds, left_float=self.left_float, own_bits=self.own_bits)
        result.meta.update(sources=layer_sources(result))
        return result

    def _absorbed(self, node: fx.Node) -> bool:
        """Nodes that read sizes, and nodes already replaced (activations fused into what feeds them)."""
        if node not in self.graph.nodes or not node.users:
            return True
        if is_parts(node):  # its parts are selections of the channels
            return True
        if reads_sizes(node, self.sizes):
            self.sizes.add(node)
            return True
        return False

    def _convert(self, node: fx.Node) -> None:
        module = module_of(self.model, node)
        self.name = str(node.target) if node.op == "call_module" else node.name
        activation_node = self._following_activation(node)
        self.activation = "none"
        if activation_node is not None:
            self.activation = activation_of(activation_node, module_of(self.model, activation_node)) or "none"
        self.overrides = self.settings.matching(self.name, node, activation_node or node)
        kind = kind_of(self.model, node)

        own_activation = None if self._skipped() else activation_of(node, module)
        if own_activation is not None:  # after something that cannot absorb it
            self.activation, activation_node = own_activation, None
        quantized, inputs = self._built(node, module, kind)
        if quantized is None:
            node.replace_all_uses_with(inputs[0])
            self.graph.erase_node(node)
            return
        if activation_node is not None and quantized.output is None:  # which keeps its scale
            activation_node, self.activation = None, "none"
        other = [x for x in inputs if x.op == "get_attr" or x in self.sizes]
        if other:
            raise InputError(f"{self.name}: found {other[0].name}, a constant or a size, as an operand of {kind}, "
                             "expected values that are computed from the image")  # fmt: skip
        if quantized.requantization is not None:
            quantized.requantization = self.config.requantization
        if isinstance(quantized, QuantLayer):
            bits = self._setting("input_bits", None)
            inputs = [self.inputs.narrowed(inputs[0], bits, self.name)] if bits is not None else inputs
            if self.settings.roles(node, activation_node or node) or bits or self._setting("weight_bits", None):
                self.own_bits.append(self.name)
        self._replace(node, activation_node, quantized, inputs)
        fused = f" + {self.activation}" if self.activation != "none" and own_activation is None else ""
        self.kinds.append((self.name, kind + fused, type(quantized).__name__))

    def _built(self, node: fx.Node, module: nn.Module | None, kind: str) -> Built:
        """The quantized module for a node, and what feeds it."""
        if self._skipped():
            return self._left_in_float(node, module), tensor_inputs(node)
        if activation_of(node, module) is not None:
            return QuantRequantize(self.output()), [input_node(node)]
        if (function := elementwise_function(node, module)) is not None:
            inputs = tensor_inputs(node)
            source = module_of(self.model, inputs[0])
            if isinstance(source, QuantModule) and source.output is not None and len(inputs[0].users) == 1:
                source.output.bounds = constant_beyond(function)  # codes for where it changes
            return QuantElementwise(self.output(), function), inputs
        builder = PATTERNS.get(type(module) if module is not None else node.target)
        if builder is None:
            known = sorted({getattr(key, "__name__", str(key)) for key in PATTERNS if key not in OWN})
            raise InputError(
                f"{self.name}: found {kind}, which has no quantized form; expected one of {', '.join(known)} or a "
                "function of one number (ReLU, Hardswish, ...)"
            )
        quantized, inputs = builder(node, module, self)
        if isinstance(quantized, QuantLayer) and isinstance(module, nn.Module):
            self._share(module, quantized)
        return quantized, inputs

    def _left_in_float(self, node: fx.Node, module: nn.Module | None) -> QuantSkip:
        if module is None or len(tensor_inputs(node)) != len(node.args) or node.kwargs:
            raise InputError(
                f"{self.name}: 'skip' is for modules that take nothing but tensors, found {node.format_node()}"
            )
        top, left, bottom, right = padding_before(node)
        if top or left or bottom or right:
            module = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), module)
        self.left_float.append(self.name)
        return QuantSkip(module, self.output())

    def _share(self, layer: nn.Module, quantized: QuantLayer) -> None:
        """Give the calls of one float layer one weight and one bias."""
        key = layer.weight, layer.bias  # compared by identity
        weight, bias = self.parameters.setdefault(key, (quantized.weight, quantized.bias))
        quantized.weight, quantized.bias = weight, bias

    def _following_activation(self, node: fx.Node) -> fx.Node | None:
        """The activation that is the only consumer of a node, or None."""
        if len(node.users) != 1:
            return None
        (user,) = node.users
        is_call = user.op in ("call_module", "call_function", "call_method")
        return user if is_call and activation_of(user, module_of(self.model, user)) is not None else None

    def _replace(
        self, node: fx.Node, activation: fx.Node | None, quantized: QuantModule, inputs: list[fx.Node]
    ) -> None:
        self.model.add_submodule(self.name, quantized)
        with self.graph.inserting_before(node):
            new = self.graph.call_module(self.name, tuple(inputs))
        self.counts[new] = quantized.output_channels([self.counts.get(x) for x in inputs])
        last = activation or node
        new.meta = dict(last.meta)
        last.replace_all_uses_with(new)
        self.graph.erase_node(last)
        if activation is not None:
            self.graph.erase_node(node)

    def _insert_input(self, node: fx.Node) -> None:
        quantizer = self.factory.activation_quantizer(self.config.activation_bits, "none", self.config.observer, False)
        self.model.add_submodule("input", QuantInput(quantizer))
        with self.graph.inserting_after(node):
            new = self.graph.call_module("input", (node,))
        new.meta = dict(node.meta)
        readers = [module_of(self.model, user) for user in node.users if user is not new]
        self.counts[new] = next((x.in_channels for x in readers if isinstance(x, CONVOLUTIONS)), None)
        node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def _insert_outputs(self, node: fx.Node) -> None:
        count = 0

        def wrap(value: fx.Node) -> fx.Node:
            nonlocal count
            name = f"output_{count}"
            count += 1
            self.model.add_submodule(name, QuantOutput())
            with self.graph.inserting_before(node):
                return self.graph.call_module(name, (value,))

        node.args = (fx.map_arg(node.args[0], wrap),)
