"""Which layers have settings of their own: overrides by qualified name, and by place at the ends of the network."""

import fnmatch
from collections.abc import Mapping, Sequence

from torch import fx

from oaq_repro.errors import InputError
from oaq_repro.quant.config import ROLES, Override
from oaq_repro.quant.conversion.calls import MODULE
from oaq_repro.quant.conversion.trace import LAYERS, module_of


class LayerOverrides:
    """The overrides of one conversion. model: the float network, of which nodes may be replaced later."""

    def __init__(self, model: fx.GraphModule, overrides: Mapping[str, Override]) -> None:
        self.model, self.overrides = model, overrides
        self._ends = self._find_ends(list(model.graph.nodes))
        self._matched: set[str] = set()
        self._matched_layers: set[str] = set()

    def roles(self, node: fx.Node, last: fx.Node) -> set[str]:
        """Of a layer, none for other nodes. last: the node whose value the quantized module will produce."""
        if not isinstance(module_of(self.model, node), LAYERS):
            return set()
        roles = {role for role, nodes in self._ends.items() if id(node) in nodes}
        return roles | {"@last"} if any(user.op == "output" for user in last.users) else roles

    def matching(self, name: str, node: fx.Node, last: fx.Node) -> list[Override]:
        """Those that apply to the node of that name, in their order; `last` as for `roles`."""
        roles = self.roles(node, last)
        names = (name, node.meta.get(MODULE, name))  # all calls of a module go by its name, too
        found = []
        for key, override in self.overrides.items():
            if override.match in roles or any(fnmatch.fnmatchcase(name, override.match) for name in names):
                self._matched.add(key)
                if isinstance(module_of(self.model, node), LAYERS):
                    self._matched_layers.add(key)
                found.append(override)
        return found

    def check(self, layers: Sequence[str]) -> None:
        """InputError for an override that matched nothing so far. layers: what there is to match."""
        for key, override in self.overrides.items():
            field = "match" if override.input_bits is None else "input_bits"
            if key not in (self._matched if field == "match" else self._matched_layers):
                raise InputError(
                    f"quantization.overrides.{key}.{field}: {override.match!r} matches no layer; "
                    f"expected {' or '.join(ROLES)} or a glob over: {', '.join(layers)}"
                )

    def _find_ends(self, nodes: Sequence[fx.Node]) -> dict[str, set[int]]:
        """By role the nodes, by identity, that have no layer before them, or behind them."""
        is_layer = {node: isinstance(module_of(self.model, node), LAYERS) for node in nodes}
        before: dict[fx.Node, bool] = {}
        behind: dict[fx.Node, bool] = {}
        for node in nodes:
            before[node] = any(is_layer[x] or before[x] for x in node.all_input_nodes)
        for node in reversed(nodes):
            behind[node] = any(is_layer[x] or behind[x] for x in node.users)
        first = {id(n) for n in nodes if not before[n] or any(i.op == "placeholder" for i in n.all_input_nodes)}
        return {"@first": first, "@last": {id(n) for n in nodes if not behind[n]}}
