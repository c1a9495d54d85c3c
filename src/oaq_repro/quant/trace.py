"""Float network -> torch.fx graph with batch norm folded and identities gone: what conversion starts from."""

import copy
import operator
from collections.abc import Container
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from oaq_repro.errors import InputError
from oaq_repro.quant.views import name_views

IDENTITY_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
IDENTITY_FUNCTIONS = (F.dropout, F.dropout2d, F.dropout3d, "clone", "contiguous", "detach", torch.clone)
RANDOM_DEPTH = "stochastic_depth"  # torchvision's function that drops whole branches in training


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

    A batch norm with nothing to be folded into becomes a depthwise 1x1 convolution, a linear layer written as a
    function `nn.Linear`, and views what `views.py` says.
    The result computes the same function (evaluation mode) to rounding. It is the float network that is
    quantized. Dropout is dropped: fine-tuning runs without it (our choice).
    Raises InputError for a batch norm without statistics, or of something else than images.
    """
    model = trace(dense)
    for node in list(model.graph.nodes):
        module = module_of(model, node)
        called = node.op in ("call_function", "call_method")
        if isinstance(module, _BatchNorm):
            _fold_batch_norm(model, node, module)
        elif isinstance(module, IDENTITY_MODULES) or called and _is_identity(node.target):
            _bypass(model, node)
        elif node.target is F.linear:
            _name_linear(model, node)
    name_views(model)
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


def kind_of(model: fx.GraphModule, node: fx.Node) -> str:
    """What a node calls, for people: a class of modules, a function or a method."""
    module = module_of(model, node)
    return type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))


def reads_sizes(node: fx.Node, sizes: Container[fx.Node]) -> bool:
    """Whether a node's value is the shape of a tensor, or made of `sizes` alone."""
    is_size = node.op == "call_method" and node.target == "size"
    is_shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    sources = node.all_input_nodes
    return bool(is_size or is_shape or (sources and all(x in sizes for x in sources)))


def _is_identity(target: Any) -> bool:
    """Whether a function or method changes nothing outside of training."""
    return target in IDENTITY_FUNCTIONS or getattr(target, "__name__", "") == RANDOM_DEPTH


def _bypass(model: fx.GraphModule, node: fx.Node) -> None:
    node.replace_all_uses_with(input_node(node))
    model.graph.erase_node(node)


def _fold_batch_norm(model: fx.GraphModule, node: fx.Node, norm: _BatchNorm) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise InputError(f"{node.target}: found a batch norm without running statistics, which cannot be folded")
    source, name = input_node(node), str(node.target)
    before = module_of(model, source)
    folds = isinstance(before, (nn.Conv2d, nn.Linear)) and len(source.users) == 1
    layer = before if folds else _depthwise_identity(node, norm)
    assert isinstance(layer, (nn.Conv2d, nn.Linear))
    layer.weight, layer.bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    activation = getattr(norm, "act", nn.Identity())  # timm: batch norm and activation in one module
    if folds:
        model.add_submodule(name, activation)
    else:
        model.add_submodule(name, layer)
        modules, after_name = {known for known, _ in model.named_modules()}, f"{name}_act"
        while after_name in modules:
            after_name += "_"
        model.add_submodule(after_name, activation)
        with model.graph.inserting_after(node):
            after = model.graph.call_module(after_name, (node,))
        node.replace_all_uses_with(after, delete_user_cb=lambda user: user is not after)
        node = after
    if isinstance(activation, nn.Identity):
        _bypass(model, node)


def _depthwise_identity(node: fx.Node, norm: _BatchNorm) -> nn.Conv2d:
    """A convolution that changes nothing, for a batch norm that stands alone."""
    if not isinstance(norm, nn.BatchNorm2d):
        raise InputError(
            f"{node.target}: this {type(norm).__name__} follows {input_node(node).target!s} with "
            f"{len(input_node(node).users)} consumers; expected a linear layer that nothing else reads"
        )
    layer = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features, bias=False)
    nn.init.ones_(layer.weight)
    return layer.to(norm.running_mean)


def _name_linear(model: fx.GraphModule, node: fx.Node) -> None:
    """`F.linear` with parameters (what timm's subclass of `nn.Linear` calls): a call of an `nn.Linear`."""
    weight, bias = (
        node.args[at] if at < len(node.args) else node.kwargs.get(n) for at, n in ((1, "weight"), (2, "bias"))
    )
    constants = [x for x in (weight, bias) if x is not None]
    if not constants or any(not isinstance(x, fx.Node) or x.op != "get_attr" for x in constants):
        return
    names = [str(x.target) for x in constants if isinstance(x, fx.Node)]
    found = [model.get_parameter(name) for name in names]
    layer = nn.Linear(found[0].shape[1], found[0].shape[0], bias=len(found) > 1)
    layer.weight = found[0]
    if len(found) > 1:
        layer.bias = found[1]
    owner = names[0].rpartition(".")[0]
    held = [*model.get_submodule(owner).named_parameters(), *model.get_submodule(owner).children()]
    name = owner if owner and len(held) == len(names) else node.name  # the owner's, where it is nothing but that layer
    model.add_submodule(name, layer)
    node.op, node.target, node.args, node.kwargs = "call_module", name, (input_node(node),), {}


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
