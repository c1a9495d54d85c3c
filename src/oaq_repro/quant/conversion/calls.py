"""One module per call: what a network calls several times becomes several modules, which share their parameters."""

import copy
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

MODULE = "module"  # key in a node's `meta`: the name that the module it calls has in the user's network
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
LINEAR = ("input", "weight", "bias")

FIELDS: dict[Any, tuple[str, ...]] = {F.conv2d: CONVOLUTION, F.linear: LINEAR, F.conv_transpose2d: TRANSPOSED}
"""Functions that become modules, and their arguments."""


def one_module_per_call(model: fx.GraphModule) -> None:
    """Give every call a module of its own, functional convolutions and linear layers too; in place.

    Parameters and buffers are the same objects as before, so that weights that were shared still are.
    """
    seen: set[str] = set()
    for node in model.graph.nodes:
        if node.op == "call_function" and node.target in FIELDS:
            _as_module(model, node)
        if node.op == "call_module":
            name = node.meta.setdefault(MODULE, str(node.target))
            if node.target in seen:
                node.target = _free_name(model, name)
                model.add_submodule(node.target, _twin(model.get_submodule(name)))
            seen.add(node.target)


def _twin(module: nn.Module) -> nn.Module:
    """A module that shares parameters and buffers with another until one of the two gets others."""
    twin = copy.copy(module)
    for kind in ("_parameters", "_buffers", "_modules"):
        setattr(twin, kind, dict(getattr(module, kind)))
    return twin


def _free_name(model: fx.GraphModule, name: str) -> str:
    """`name_1`, `name_2` ..."""
    number = 1
    taken = {found for found, _ in model.named_modules(remove_duplicate=False)}
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _as_module(model: fx.GraphModule, node: fx.Node) -> None:
    """Turn a functional layer whose weights are the network's own into a call of a module with these weights.

    It goes by the name of the module whose weights they are. Where they are computed nothing happens.
    """
    names = FIELDS[node.target]
    fields: dict[str, Any] = dict(zip(names, node.args, strict=False))
    fields |= node.kwargs
    weight, bias = fields["weight"], fields.get("bias")
    given = [value for value in (weight, bias) if value is not None]
    if not all(isinstance(value, fx.Node) and value.op == "get_attr" for value in given):
        return
    parameters = [_attribute(model, str(value.target)) for value in given]
    outputs, inputs, *kernel = parameters[0].shape
    layer: nn.Module
    if names is LINEAR:
        layer = nn.Linear(inputs, outputs, bias is not None)
    else:
        groups = fields.get("groups", 1)
        geometry = {name: fields[name] for name in names[3:] if name in fields and name != "groups"}
        size, options = (kernel[0], kernel[1]), {"groups": groups, "bias": bias is not None, **geometry}
        if names is TRANSPOSED:
            layer = nn.ConvTranspose2d(outputs, inputs * groups, size, **options)
        else:
            layer = nn.Conv2d(inputs * groups, outputs, size, **options)
    for name, parameter in zip(("weight", "bias"), parameters, strict=False):
        setattr(layer, name, parameter)
    owner = str(weight.target).rpartition(".")[0]
    free = owner and not _is_called(model, owner) and _is_only(model.get_submodule(owner), parameters)
    name = owner if free else _free_name(model, owner or node.name)
    model.add_submodule(name, layer)
    node.op, node.target = "call_module", name
    node.args, node.kwargs = (fields["input"],), {}
    node.meta[MODULE] = owner or node.name


def _is_only(owner: nn.Module, parameters: list[nn.Parameter]) -> bool:
    """Whether a module is nothing but these parameters, so that the layer may take its name."""
    return not [*owner.children()] and len([*owner.parameters()]) == len(parameters)


def _is_called(model: fx.GraphModule, name: str) -> bool:
    return any(node.op == "call_module" and node.target == name for node in model.graph.nodes)


def _attribute(model: fx.GraphModule, name: str) -> nn.Parameter:
    owner, _, own = name.rpartition(".")
    return getattr(model.get_submodule(owner), own)
