"""Fewer bits for what a layer reads: a requantization before it, or none where the whole tensor can have these bits.

HAWQ-V3 (Yao et al., ICML 2021, arXiv 2011.10680) gives bits to a layer's weights and its input. A tensor is read by
several layers, and by the sum of a residual block too, so each reader may want its own.
"""

from collections.abc import Iterator

from torch import fx

from oaq_repro.quant.conversion.trace import input_node, module_of
from oaq_repro.quant.modules import QuantModule, QuantOutput, QuantRequantize
from oaq_repro.quant.quantizers import ActivationQuantizer, QuantizerFactory

SUFFIX = "_input"  # of the name of a layer's requantization


class InputBits:
    """The requantizations before layers of one network that is being converted."""

    def __init__(self, model: fx.GraphModule, factory: QuantizerFactory) -> None:
        self.model, self.factory = model, factory
        self.narrow: dict[tuple[fx.Node, int], fx.Node] = {}  # by the tensor and the bits

    def narrowed(self, source: fx.Node, bits: int, layer: str) -> fx.Node:
        """The node that a layer reads in place of `source`, a converted node, to read at most that many bits.

        That is `source` where it has no more. Layers that read one tensor with the same bits share a requantization.
        """
        quantizer = self._quantizer(source)
        if quantizer.bits <= bits:
            return source
        if (source, bits) not in self.narrow:
            name = f"{layer}{SUFFIX}"
            own = self.factory.activation_quantizer(bits, quantizer.activation, quantizer.observer, quantizer.scalable)
            self.model.add_submodule(name, QuantRequantize(own))
            with self.model.graph.inserting_after(source):
                new = self.model.graph.call_module(name, (source,))
            new.meta = dict(source.meta)
            self.narrow[source, bits] = new
        return self.narrow[source, bits]

    def merge(self) -> None:
        """Give a tensor that is read with the same fewer bits only these bits, which spares it a second rounding."""
        made = {node: bits for (_, bits), node in self.narrow.items()}
        for node in [self._origin(source) for source, _ in self.narrow]:
            readers = list(_readers(self.model, node))
            wanted = {made.get(reader) for reader in readers}
            if len(wanted) != 1 or None in wanted:
                continue
            (bits,) = wanted
            module = module_of(self.model, node)
            before = self._quantizer(node)
            assert isinstance(module, QuantModule) and bits is not None
            module.output = self.factory.activation_quantizer(bits, before.activation, before.observer, before.scalable)
            module.output.bounds = before.bounds
            for reader in readers:
                reader.replace_all_uses_with(input_node(reader))
                self.model.graph.erase_node(reader)
                del made[reader]

    def _quantizer(self, node: fx.Node) -> ActivationQuantizer:
        module = module_of(self.model, self._origin(node))
        assert isinstance(module, QuantModule) and module.output is not None
        return module.output

    def _origin(self, node: fx.Node) -> fx.Node:
        """The node whose quantizer made a value; modules that keep the scale are looked through."""
        module = module_of(self.model, node)
        assert isinstance(module, QuantModule)
        return node if module.output is not None else self._origin(input_node(node))


def _readers(model: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """Nodes that read a value and make one on a scale of their own, or a result; those between keep its scale."""
    for user in node.users:
        module = module_of(model, user)
        assert isinstance(module, QuantModule)
        if module.output is not None or isinstance(module, QuantOutput):
            yield user
        elif input_node(user) is node:  # not only the size of it
            yield from _readers(model, user)
