"""Float network -> torch.fx graph with batch norm folded and identities gone: what conversion starts from."""

import copy
import operator

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from oaq_repro.errors import InputError

IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
IDENTITY_FUNCTIONS = (F.dropout, F.dropout2d)


class _Tracer(fx.Tracer):
    """Keeps batch norm modules whole (timm's BatchNormAct2d would fall apart into functions)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


def trace(dense: nn.Module) -> fx.GraphModule:
    """Trace a copy of the dense part, in evaluation mode. Raises InputError when torch.fx cannot."""
    dense = copy.deepcopy(dense).eval()
    try:
        graph = _Tracer().trace(dense)
    except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{type(dense).__name__}: cannot be traced with torch.fx ({error}); "
            "expected a forward pass without data-dependent control flow"
        ) from error
    return fx.GraphModule(dense, graph)


def fold(dense: nn.Module) -> fx.GraphModule:
    """Trace, fold every batch norm into the convolution or linear layer before it, and drop identities.

    The result computes the same function (evaluation mode) to rounding. It is the float network that is
    quantized. Dropout is dropped: fine-tuning runs without it (our choice).
    Raises InputError for a batch norm that has nothing to be folded into.
    """
    model = trace(dense)
    for node in list(model.graph.nodes):
        module = module_of(model, node)
        if isinstance(module, _BatchNorm):
            _fold_batch_norm(model, node, module)
        elif isinstance(module, IDENTITY_MODULES) or node.op == "call_function" and node.target in IDENTITY_FUNCTIONS:
            _bypass(model, node)
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()
    return model


def input_node(node: fx.Node, index: int = 0) -> fx.Node:
    """A positional argument that is a node of the graph; InputError where it is a constant."""
    argument = node.args[index] if index < len(node.args) else None
    if not isinstance(argument, fx.Node):
        raise InputError(f"{node.name}: found {argument!r} as input {index} of {node.target}, expected a tensor")
    return argument


def module_of(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or None where it calls none."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def _bypass(model: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(input_node(node))
    model.graph.erase_node(node)


def _fold_batch_norm(model: fx.GraphModule, node: fx.Node, norm: _BatchNorm) -> None:
    source = input_node(node)
    layer = module_of(model, source)
    if not isinstance(layer, (nn.Conv2d, nn.Linear)) or len(source.users) != 1:
        raise InputError(
            f"{node.target}: this batch norm follows {source.target!s} with {len(source.users)} consumers; "
            "expected a convolution or linear layer that nothing else reads"
        )
    if norm.running_mean is None or norm.running_var is None:
        raise InputError(f"{node.target}: found a batch norm without running statistics, which cannot be folded")
    weight, bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    layer.weight, layer.bias = weight, bias
    activation = getattr(norm, "act", None)  # timm: batch norm and activation in one module
    if activation is None or isinstance(activation, nn.Identity):
        _bypass(model, node)
    else:
        model.add_submodule(str(node.target), activation)


def size_source(node: fx.Node) -> fx.Node | None:
    """The tensor whose spatial size this node is (`y.shape[2:]`, `y.size()[2:]`, `y.shape[-2:]`), or None."""
    if node.op != "call_function" or node.target is not operator.getitem or not isinstance(node.args[1], slice):
        return None
    shape, part = input_node(node), node.args[1]
    if (part.start, part.stop, part.step) not in ((2, None, None), (-2, None, None)):
        return None
    is_size = shape.op == "call_method" and shape.target == "size" and len(shape.args) == 1
    is_shape = shape.op == "call_function" and shape.target is getattr and shape.args[1] == "shape"
    return input_node(shape) if is_size or is_shape else None


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """All graph nodes among a node's arguments, sequences flattened, in order."""
    found: list[fx.Node] = []

    def see(argument: fx.Node) -> fx.Node:
        found.append(argument)
        return argument

    fx.map_arg((node.args, node.kwargs), see)
    return found
