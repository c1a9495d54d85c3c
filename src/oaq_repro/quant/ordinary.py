"""What is something more ordinary at the size at hand: adaptive pooling, and the many ways to drop height and width."""

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.places import placed
from oaq_repro.quant.sizes import SHAPE
from oaq_repro.quant.trace import input_node, module_of

AVERAGES = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)
MAXIMA = (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices)
VIEWS = ("view", "reshape", torch.reshape)
SQUEEZES = ("squeeze", torch.squeeze)


def simplify(model: fx.GraphModule) -> None:
    """Rewrite such nodes, in place; those that stay are what conversion has to deal with.

    Sizes are those that `note_shapes` has written; InputError where an adaptive pooling needs them and there are none,
    or where its windows differ.
    """
    for node in list(model.graph.nodes):
        module = module_of(model, node)
        target = type(module) if module is not None else node.target
        if target in AVERAGES + MAXIMA:
            with placed(node, module):
                _adaptive_pool(model, node, module, target in MAXIMA)
        elif node.op in ("call_method", "call_function"):
            source = _flattened(node, target)
            if source is not None:
                node.op, node.target = "call_function", torch.flatten
                node.args, node.kwargs = (source, 1), {}


def _adaptive_pool(model: fx.GraphModule, node: fx.Node, module: Any, maximum: bool) -> None:
    fields = dict(zip(("input", "output_size"), node.args, strict=False)) | node.kwargs
    wanted = module.output_size if module is not None else fields["output_size"]
    wanted = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted] * 2
    if wanted == [1, 1] and not maximum:
        return  # at all sizes
    name, shape = str(node.target) if module is not None else node.name, input_node(node).meta.get(SHAPE)
    if shape is None:
        raise InputError(
            f"{name}: found adaptive pooling to {wanted}, which depends on the image's size; expected input_shape="
            "[channels, height, width]"
        )
    sizes = [size if w is None else w for w, size in zip(wanted, shape[2:], strict=True)]
    if any(size % w for w, size in zip(sizes, shape[2:], strict=True)):
        raise InputError(
            f"{name}: found adaptive pooling from {list(shape[2:])} to {sizes} with windows of several sizes, expected "
            "sizes that divide those of its input (choose another data.image_size)"
        )
    kernel = tuple(size // w for w, size in zip(sizes, shape[2:], strict=True))
    if kernel == (1, 1):
        node.replace_all_uses_with(input_node(node))
        model.graph.erase_node(node)
        return
    pool: nn.Module = nn.MaxPool2d(kernel) if maximum else nn.AvgPool2d(kernel)
    source = input_node(node)
    if module is None:
        node.op, node.target = "call_module", name
    node.args, node.kwargs = (source,), {}
    model.add_submodule(name, pool)


def _flattened(node: fx.Node, target: Any) -> fx.Node | None:
    """The value [N, C, H, W] of which a node is the view [N, C * H * W], in one of many spellings; None for others."""
    source: Any = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if target in VIEWS and _is_flat(source, node.args[1:]):
        return source
    if target is operator.getitem and node.args[1] == (slice(None), slice(None), 0, 0) and _is_pixel(source):
        return source
    if target not in SQUEEZES:
        return None
    given: Any = node.args[1:] or (node.kwargs.get("dim"),)
    axes = _axes(given[0], 4)
    if axes in ([2, 3], None):
        return source if _is_pixel(source) else None
    before: Any = source.args[0] if source.target in SQUEEZES else None  # one axis after the other
    pixel = isinstance(before, fx.Node) and _is_pixel(before) and _axes(source.args[1], 4) in ([2], [3])
    return before if pixel and _axes(given[0], 3) == [2] else None


def _axes(value: Any, rank: int) -> list[int] | None:
    if value is None:
        return None
    return sorted(axis % rank for axis in (value if isinstance(value, (tuple, list)) else [value]))


def _is_pixel(source: fx.Node) -> bool:
    """Whether a value is [N, C, 1, 1]."""
    shape = source.meta.get(SHAPE)
    return shape is not None and len(shape) == 4 and shape[2:] == (1, 1)


def _is_flat(source: fx.Node, sizes: Any) -> bool:
    """Whether these sizes of a view of a value are [N, all else]."""
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = sizes[0]
    if len(sizes) != 2:
        return False
    is_batch = _size_index(sizes[0], source) == 0
    if sizes[1] == -1:
        return is_batch
    shape = source.meta.get(SHAPE, (1, -1))
    is_rest = sizes[1] == math.prod(shape[1:]) or _size_index(sizes[1], source) == 1 and _is_pixel(source)
    return is_rest and (is_batch or sizes[0] == -1)


def _size_index(value: Any, source: fx.Node) -> int | None:
    """Which of the sizes of `source` a node is (`source.size(0)`, `source.shape[0]`), or None."""
    if not isinstance(value, fx.Node):
        return None
    if value.op == "call_method" and value.target == "size" and value.args[0] is source and len(value.args) == 2:
        return value.args[1] if isinstance(value.args[1], int) else None
    if value.target is not operator.getitem or not isinstance(value.args[1], int):
        return None
    sizes: Any = value.args[0]
    is_size = sizes.op == "call_method" and sizes.target == "size" and sizes.args == (source,)
    is_shape = sizes.op == "call_function" and sizes.target is getattr and sizes.args == (source, "shape")
    return value.args[1] if is_size or is_shape else None
