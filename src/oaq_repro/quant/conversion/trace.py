"""Float network -> torch.fx graph with batch norm folded and identities gone: what conversion starts from."""

import copy
import fnmatch
import operator
import warnings
from collections.abc import Container, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.affine import name_affine
from oaq_repro.quant.conversion.calls import one_module_per_call
from oaq_repro.quant.conversion.places import innermost, place, placed
from oaq_repro.quant.conversion.sizes import SizedTracer
from oaq_repro.quant.conversion.views import name_views
from oaq_repro.quant.numerics import exchanged

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
IDENTITY_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd)
IDENTITY_FUNCTIONS = (F.dropout, F.dropout2d, F.dropout3d, "clone", "contiguous", "detach", torch.clone)
RANDOM_DEPTH = "stochastic_depth"  # torchvision's function that drops whole branches in training
Fused = dict[tuple[Tensor, Tensor], tuple[nn.Parameter, nn.Parameter]]
WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule")  # of torch, around one module


class _Leaves(fx.Tracer):
    """Keeps batch norm modules whole (timm's BatchNormAct2d would fall apart into functions), and those of `whole`."""

    whole: Sequence[str] = ()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = _chosen(module_qualified_name, self.whole) or isinstance(m, _BatchNorm)
        return whole or super().is_leaf_module(m, module_qualified_name)


def _chosen(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


class _SizedLeaves(_Leaves, SizedTracer):
    """The same, for images of one size."""


UNTRACEABLE = (fx.proxy.TraceError, TypeError, RuntimeError, ValueError, AttributeError, AssertionError)


def trace(dense: nn.Module, input_shape: Sequence[int] | None = None, whole: Sequence[str] = ()) -> fx.GraphModule:
    """Trace a copy of the dense part, in evaluation mode and float32. Raises InputError when torch.fx cannot.

    input_shape: [C, H, W] of the images, for networks that compute with sizes; it is looked at only where there is no
    other way. whole: globs over names of modules that are not looked into.
    """
    dense = _plain(dense)
    plain: _Leaves = _Leaves()
    plain.whole = whole
    try:
        return fx.GraphModule(dense, plain.trace(dense))
    except UNTRACEABLE as error:
        reason: Exception = error
    if input_shape is not None:
        sized = _SizedLeaves(input_shape)
        sized.whole = whole
        try:
            return fx.GraphModule(dense, sized.trace(dense))
        except UNTRACEABLE as error:
            reason = error
        plain = sized
    found = str(reason).strip().splitlines()
    sizes = "" if input_shape is not None else ", or on sizes where no input_shape is given"
    raise InputError(
        f"{type(dense).__name__}: cannot be traced with torch.fx ({found[0] if found else type(reason).__name__}); "
        f"expected a forward pass without control flow that depends on the data{sizes}; "
        f"{place(*innermost(plain.module_stack))}"
    ) from reason


def _plain(dense: nn.Module) -> nn.Module:
    """A copy without wrappers, in evaluation mode, in float32; what is changed is said."""
    computed = [value for module in dense.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    dense = copy.deepcopy(dense, {id(value): value.detach().clone() for value in computed})  # torch copies no others
    while type(dense).__name__ in WRAPPERS:
        (inner,) = dense.children()
        warnings.warn(f"{type(dense).__name__}: unwrapped, quantizing the {type(inner).__name__} in it", stacklevel=4)
        dense = inner
    tensors = [*dense.parameters(), *dense.buffers()]
    found = sorted({str(t.dtype) for t in tensors if t.is_floating_point() and t.dtype != torch.float32})
    if found:
        warnings.warn(f"{type(dense).__name__}: converted from {', '.join(found)} to torch.float32", stacklevel=4)
    dense = dense.float().eval()
    for module in list(dense.modules()):
        keep_computed_weights(module)
    return dense


def keep_computed_weights(module: nn.Module) -> None:
    """Make parameters of weights that are computed anew for every call: spectral and weight norm, parametrizations."""
    if parametrize.is_parametrized(module):
        # remove_parametrizations would change the class of the original, too, which the copy shares
        names = [name for name, _ in module.get_submodule("parametrizations").named_children()]
        values = {name: getattr(module, name).detach().clone() for name in names}
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, SpectralNorm):
            nn.utils.remove_spectral_norm(module, hook.name)
        elif isinstance(hook, WeightNorm):
            nn.utils.remove_weight_norm(module, hook.name)


def fold(dense: nn.Module, input_shape: Sequence[int] | None = None, whole: Sequence[str] = ()) -> fx.GraphModule:
    """Trace, fold every batch norm into the convolution or linear layer before it, and drop identities.

    A batch norm with nothing to be folded into becomes a depthwise 1x1 convolution, a linear layer written as a
    function `nn.Linear`, constants per channel what `affine.py` says, and views what `views.py` says.
    The result computes the same function (evaluation mode) to rounding. It is the float network that is
    quantized. Dropout is dropped: fine-tuning runs without it (our choice). Every call has a module of its own, which
    shares its weights with the others of the same float module. Arguments: as those of `trace`.
    Raises InputError for a batch norm without statistics, or of something else than images.
    """
    model = trace(dense, input_shape, whole)
    one_module_per_call(model)
    fused: Fused = {}
    for node in list(model.graph.nodes):
        module = module_of(model, node)
        called = node.op in ("call_function", "call_method")
        if isinstance(module, _BatchNorm) and not _chosen(str(node.target), whole):
            with placed(node, module):
                _fold_batch_norm(model, node, module, fused)
        elif isinstance(module, IDENTITY_MODULES) or called and _is_identity(node.target):
            _bypass(model, node)
    name_affine(model)
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


def _fold_batch_norm(model: fx.GraphModule, node: fx.Node, norm: _BatchNorm, fused: Fused) -> None:
    """`fused`: weights and biases made so far; those that one layer and one norm share stay one."""
    if norm.running_mean is None or norm.running_var is None:
        raise InputError(f"{node.target}: found a batch norm without running statistics, which cannot be folded")
    source, name = input_node(node), str(node.target)
    before = module_of(model, source)
    folds = isinstance(before, LAYERS) and len(source.users) == 1
    layer = before if folds else _depthwise_identity(node, norm)
    assert isinstance(layer, LAYERS)
    shared = layer.weight, norm.running_mean  # compared by identity, as tensors in keys are
    if shared not in fused:
        groups = layer.groups if isinstance(layer, nn.ConvTranspose2d) else 0
        weight = exchanged(layer.weight, groups) if groups else layer.weight
        weight, bias = fuse_conv_bn_weights(
            weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        fused[shared] = nn.Parameter(exchanged(weight, groups)) if groups else weight, bias
    layer.weight, layer.bias = fused[shared]
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
