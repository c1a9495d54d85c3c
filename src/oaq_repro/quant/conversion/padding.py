"""Padding as a step of its own (ZeroPad2d, F.pad), folded into the convolutions and pools that read it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.places import placed
from oaq_repro.quant.conversion.trace import input_node, module_of
from oaq_repro.quant.numerics import Sides

PADDING, LOWEST = "padding", float("-inf")
CONVOLUTIONS = (nn.Conv2d,)
AVERAGES = (nn.AvgPool2d, F.avg_pool2d)
MAXIMA = (nn.MaxPool2d, F.max_pool2d, torch.max_pool2d)


def padding_before(node: fx.Node) -> Sides:
    """What has been folded into a node."""
    return node.meta.get(PADDING, (0, 0, 0, 0))


def sides_of(value: int | tuple[int, int]) -> Sides:
    """PyTorch's padding of convolutions and pools, the same at both ends of height and width."""
    rows, columns = (value, value) if isinstance(value, int) else value
    return (rows, columns, rows, columns)


def both(first: Sides, second: Sides) -> Sides:
    """Padding after padding."""
    return tuple(a + b for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def padding_of(node: fx.Node, module: nn.Module | None) -> tuple[Sides, float] | None:
    """The padding that a node adds to height and width, and its value; None where it is no padding.

    InputError for one of another mode, or that crops.
    """
    if isinstance(module, (nn.ZeroPad2d, nn.ConstantPad2d)):
        mode: Any = "constant"
        amounts: Any = module.padding
        value: Any = module.value
    elif node.op == "call_function" and node.target in (F.pad, torch._C._nn.pad):
        fields: dict[str, Any] = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
        amounts, mode, value = fields["pad"], fields.get("mode", "constant"), fields.get("value")
    else:
        return None
    numbers = [*amounts, *[0] * (4 - len(amounts))] if len(amounts) <= 4 else list(amounts)
    if mode != "constant" or len(numbers) > 4 or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise InputError(
            f"{node.name}: found padding {amounts} of mode {mode!r}, expected numbers of at least 0 for height and "
            "width, filled with zeros"
        )
    left, right, top, bottom = numbers
    return (top, left, bottom, right), float(value or 0)


def fold_padding(model: fx.GraphModule, is_positive: Callable[[fx.Node], bool]) -> None:
    """Move every padding into what reads it, as `padding_before`; InputError where a reader cannot take it.

    `is_positive`: whether the values of a node are at least 0, so that zeros never win over them in a maximum.
    """
    for node in list(model.graph.nodes):
        with placed(node, module_of(model, node)):
            found = padding_of(node, module_of(model, node))
        if found is None:
            continue
        sides, value = found
        source = input_node(node)
        for user in list(node.users):
            if any(sides):
                with placed(user, module_of(model, user)):
                    _take(user, module_of(model, user), both(padding_before(node), sides), value, is_positive(source))
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)


def _take(user: fx.Node, module: nn.Module | None, sides: Sides, value: float, positive: bool) -> None:
    target = type(module) if module is not None else user.target
    zeros, more = value == 0, padding_of(user, module)
    fits = target in CONVOLUTIONS and zeros or target in AVERAGES and zeros
    fits = fits or target in MAXIMA and (value == LOWEST or zeros and positive)
    if not fits and (more is None or more[1] != value):
        name = str(user.target) if module is not None else user.name
        kind = type(module).__name__ if module is not None else getattr(user.target, "__name__", str(user.target))
        raise InputError(
            f"{name}: found {kind} after padding with {value:g}; expected a convolution or average pooling after "
            "zeros, or maximum pooling after -inf or after zeros beside values of at least 0"
        )
    user.meta[PADDING] = both(padding_before(user), sides)
