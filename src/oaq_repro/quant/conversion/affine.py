"""Arithmetic with constants per channel, such as `(x - mean) / std` inside a network, as a convolution."""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from oaq_repro.quant.conversion.views import PRODUCTS, SUMS

SUBTRACT = (operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_")
MULTIPLY = (*PRODUCTS, torch.multiply)
DIVIDE = (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div", "div_")


def name_affine(model: fx.GraphModule) -> None:
    """Fold such steps into the convolution before them or into one of their own, in place; numbers behind them, too."""
    made: set[fx.Node] = set()
    for node in list(model.graph.nodes):
        operand = _operand(model, node)
        if operand is None:
            continue
        source, scale, shift = operand
        layer = model.get_submodule(str(source.target)) if source.op == "call_module" else None
        alone = not isinstance(layer, nn.Conv2d) or len(source.users) != 1
        if scale.numel() == 1 and (alone or source not in made):
            continue  # a function of one number
        if alone:
            layer = _identity(scale.numel())
            model.add_submodule(node.name, layer)
            node.op, node.target, node.args, node.kwargs = "call_module", node.name, (source,), {}
            made.add(node)
        else:
            node.replace_all_uses_with(source)
            model.graph.erase_node(node)
        assert isinstance(layer, nn.Conv2d)
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach()
        layer.weight = nn.Parameter(layer.weight.detach() * scale.reshape(-1, 1, 1, 1))
        layer.bias = nn.Parameter(bias * scale + shift)


def _identity(channels: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    nn.init.ones_(layer.weight)
    return layer


def _operand(model: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, Tensor, Tensor] | None:
    """The value x of which a node is `x * scale + shift`, and these, float32 [C] or [1]; None for other nodes."""
    if node.op not in ("call_function", "call_method") or len(node.args) != 2 or node.kwargs:
        return None
    constants = [_constant(model, value) for value in node.args]
    if (constants[0] is None) == (constants[1] is None):
        return None
    first = constants[0] is None  # whether x is the first operand
    source, constant = node.args[not first], constants[first]
    if not isinstance(source, fx.Node) or constant is None:
        return None
    one, zero = torch.ones_like(constant), torch.zeros_like(constant)
    if node.target in SUMS:
        return source, one, constant
    if node.target in SUBTRACT:
        return (source, one, -constant) if first else (source, -one, constant)
    if node.target in MULTIPLY:
        return source, constant, zero
    return (source, 1 / constant, zero) if node.target in DIVIDE and first else None


def _constant(model: fx.GraphModule, value: Any) -> Tensor | None:
    """float32 [C] of a constant [C, 1, 1] or [1, C, 1, 1] of the network, [1] of a number; None for what is none."""
    if isinstance(value, (int, float)):
        return torch.tensor([float(value)])
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return None
    owner, _, name = str(value.target).rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    if not isinstance(found, Tensor) or found.dim() not in (3, 4) or found.numel() != found.shape[-3]:
        return None
    return found.detach().float().flatten()
