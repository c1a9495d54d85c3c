"""Functions of one tensor that are written in several steps, as one: `x * relu6(x + 3) / 6` is one table, not three.

Each step on its own would round its result to codes. Our choice.
"""

from torch import fx

from oaq_repro.quant.conversion.patterns import activation_of
from oaq_repro.quant.conversion.trace import kind_of, module_of, reads_sizes, tensor_inputs
from oaq_repro.quant.elementwise import elementwise_function, is_pointwise_call


def compose(model: fx.GraphModule) -> fx.GraphModule:
    """Replace, in place, every value that is a function of one other value, in two steps or more, by one module."""
    origins: dict[fx.Node, fx.Node] = {}
    sizes: set[fx.Node] = set()
    for node in model.graph.nodes:
        if reads_sizes(node, sizes):
            sizes.add(node)
        origins[node] = node if node in sizes else _origin(model, node, origins)
    for node in list(model.graph.nodes):
        origin = origins[node]
        leaves = any(user.op == "output" or origins[user] is not origin for user in node.users)
        if origin is node or not leaves:
            continue
        steps = _steps(node, origins)
        if len(steps) < 2:
            continue
        body = fx.Graph()
        copies = {origin: body.placeholder("x")}
        for step in model.graph.nodes:
            if step in steps:
                copies[step] = body.node_copy(step, copies.__getitem__)
        body.output(copies[node])
        kinds = " + ".join(kind_of(model, step) for step in model.graph.nodes if step in steps)
        model.add_submodule(node.name, fx.GraphModule(model, body, kinds))
        with model.graph.inserting_before(node):
            new = model.graph.call_module(node.name, (origin,))
        node.replace_all_uses_with(new)
        origins[new] = new
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


def _origin(model: fx.GraphModule, node: fx.Node, origins: dict[fx.Node, fx.Node]) -> fx.Node:
    """The value that a node's is a function of, element by element; the node itself where there is none."""
    found = {origins[source] for source in tensor_inputs(node)}
    if len(found) != 1 or node.op in ("output", "get_attr"):
        return node
    (origin,) = found
    module = module_of(model, node)
    if activation_of(node, module) is not None:  # part of what it follows, unless that is a step of a function
        return origin if tensor_inputs(node)[0] is not origin else node
    return origin if elementwise_function(node, module) is not None or is_pointwise_call(node) else node


def _steps(node: fx.Node, origins: dict[fx.Node, fx.Node]) -> set[fx.Node]:
    """The nodes between a node's origin and its value, itself included."""
    steps, left = {node}, [node]
    while left:
        for source in left.pop().all_input_nodes:
            if source is not origins[node] and source not in steps:
                steps.add(source)
                left.append(source)
    return steps
