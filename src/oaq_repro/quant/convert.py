"""Float network -> graph of quantized modules."""

import fnmatch
from typing import Any, Protocol

from torch import fx, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.compose import compose
from oaq_repro.quant.config import ROLES, Override, QuantizationConfig
from oaq_repro.quant.elementwise import QuantElementwise, constant_beyond, elementwise_function
from oaq_repro.quant.layers import QuantLayer, QuantSkip
from oaq_repro.quant.modules import QuantInput, QuantModule, QuantOutput, QuantRequantize
from oaq_repro.quant.network import QuantizedNetwork, layer_sources
from oaq_repro.quant.patterns import PATTERNS, activation_of
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, ObserverConfig, WeightQuantizer
from oaq_repro.quant.select import is_parts
from oaq_repro.quant.trace import fold, input_node, kind_of, module_of, reads_sizes, tensor_inputs


class QuantizerFactory(Protocol):
    """What conversion needs of a method."""

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """A quantizer for one activation tensor."""

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """A quantizer for one layer's weights."""


def quantize_network(dense: nn.Module, factory: QuantizerFactory, config: QuantizationConfig) -> QuantizedNetwork:
    """Fold batch norm and replace every node by its quantized module (table: `patterns.py`).

    dense: image [N, C, H, W] -> tensor or tuple of tensors. The result is in calibration mode.
    Raises InputError for a node without a quantized form and for an override that matches nothing.
    """
    return _Conversion(compose(fold(dense)), factory, config).run()


class _Conversion:
    """One conversion; also the `Context` that the builders of `patterns.py` ask."""

    def __init__(self, model: fx.GraphModule, factory: QuantizerFactory, config: QuantizationConfig) -> None:
        self.model, self.factory, self.config = model, factory, config
        self.graph = model.graph
        self.kinds: list[tuple[str, str, str]] = []
        self.left_float: list[str] = []
        self.matched: set[str] = set()
        self.name = ""
        self.activation: Activation = "none"
        self.overrides: list[Override] = []
        self.counts: dict[fx.Node, int | None] = {}  # channels of the new nodes' values
        self.sizes: set[fx.Node] = set()  # nodes whose values are sizes, not tensors

    # -- what builders ask ---------------------------------------------------------------------------------

    def _setting(self, name: str, default: Any) -> Any:
        values = [getattr(o, name) for o in self.overrides if getattr(o, name) is not None]
        return values[-1] if values else default

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
        nodes = list(self.graph.nodes)
        self.first = {id(n) for n in nodes if any(i.op == "placeholder" for i in n.all_input_nodes)}
        for node in nodes:
            if node.op == "placeholder":
                self._insert_input(node)
            elif node.op == "output":
                self._insert_outputs(node)
            elif node.op in ("call_module", "call_function", "call_method") and not self._absorbed(node):
                self._convert(node)
        self._check_overrides()
        self.graph.eliminate_dead_code()
        self.model.delete_all_unused_submodules()
        result = QuantizedNetwork(self.model, self.graph, "QuantizedNetwork")
        alive = {node.target for node in self.graph.nodes}
        self.kinds = [kind for kind in self.kinds if kind[0] in alive]  # selections of selections skip the first
        result.meta.update(swapped=self.kinds, left_float=self.left_float, sources=layer_sources(result))
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
        self._check_single_use(node)
        activation_node = self._following_activation(node)
        self.activation = "none"
        if activation_node is not None:
            self.activation = activation_of(activation_node, module_of(self.model, activation_node)) or "none"
        self.overrides = self._matching_overrides(node, activation_node or node)
        kind = kind_of(self.model, node)

        quantized: QuantModule | None
        own_activation = activation_of(node, module)
        builder = PATTERNS.get(type(module) if module is not None else node.target)
        if own_activation is not None:  # an activation after something that cannot absorb it
            self.activation, activation_node = own_activation, None
            quantized = QuantRequantize(self.output())
            inputs = [input_node(node)]
        elif (function := elementwise_function(node, module)) is not None:
            quantized, inputs = QuantElementwise(self.output(), function), tensor_inputs(node)
            source = module_of(self.model, inputs[0])
            if isinstance(source, QuantModule) and source.output is not None and len(inputs[0].users) == 1:
                source.output.bounds = constant_beyond(function)  # codes for where it changes
        elif builder is None:
            raise InputError(
                f"{self.name}: found {kind}, which has no quantized form; expected one of "
                f"{', '.join(sorted({getattr(k, '__name__', str(k)) for k in PATTERNS}))} or a function of one "
                "number (ReLU, Hardswish, ...)"
            )
        else:
            quantized, inputs = builder(node, module, self)
            if any(o.skip for o in self.overrides):
                if not isinstance(quantized, QuantLayer):
                    raise InputError(f"{self.name}: 'skip' is for convolutions and linear layers, found {kind}")
                assert module is not None
                quantized = QuantSkip(module, quantized.output)
                self.left_float.append(self.name)
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
        self._replace(node, activation_node, quantized, inputs)
        fused = f" + {self.activation}" if self.activation != "none" and own_activation is None else ""
        self.kinds.append((self.name, kind + fused, type(quantized).__name__))

    def _check_single_use(self, node: fx.Node) -> None:
        if node.op == "call_module" and isinstance(module_of(self.model, node), QuantModule):
            raise InputError(f"{node.target}: this module is called twice; expected one call per quantized module")

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
        last.replace_all_uses_with(new)
        self.graph.erase_node(last)
        if activation is not None:
            self.graph.erase_node(node)

    def _insert_input(self, node: fx.Node) -> None:
        quantizer = self.factory.activation_quantizer(self.config.activation_bits, "none", self.config.observer, False)
        self.model.add_submodule("input", QuantInput(quantizer))
        with self.graph.inserting_after(node):
            new = self.graph.call_module("input", (node,))
        readers = [module_of(self.model, user) for user in node.users if user is not new]
        self.counts[new] = next((x.in_channels for x in readers if isinstance(x, nn.Conv2d)), None)
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

    # -- overrides -----------------------------------------------------------------------------------------

    def _matching_overrides(self, node: fx.Node, last: fx.Node) -> list[Override]:
        """Overrides that apply; `last` is the node whose value the quantized module will produce."""
        roles = set()
        if id(node) in self.first:
            roles.add("@first")
        if any(user.op == "output" for user in last.users):
            roles.add("@last")
        is_layer = isinstance(module_of(self.model, node), (nn.Conv2d, nn.Linear))
        found = []
        for name, override in self.config.overrides.items():
            by_role = override.match in roles and is_layer
            if by_role or fnmatch.fnmatchcase(self.name, override.match):
                self.matched.add(name)
                found.append(override)
        return found

    def _check_overrides(self) -> None:
        for key, override in self.config.overrides.items():
            if key not in self.matched:
                names = [name for name, _, kind in self.kinds if kind.startswith(("QuantConv", "QuantLinear"))]
                raise InputError(
                    f"quantization.overrides.{key}.match: {override.match!r} matches no layer; "
                    f"expected {' or '.join(ROLES)} or a glob over: {', '.join(names)}"
                )
