"""What is something more ordinary at the size at hand: adaptive pooling, ways to drop height and width, a broadcast."""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.places import placed
from oaq_repro.quant.conversion.sizes import SHAPE
from oaq_repro.quant.conversion.trace import input_node, module_of
from oaq_repro.quant.conversion.views import PRODUCTS, SQUEEZES, SUMS, RepeatChannel

AVERAGES = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)
MAXIMA = (nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d, F.adaptive_max_pool2d_with_indices)


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
        elif target in PRODUCTS + SUMS:
            _repeat(model, node)
        elif node.op in ("call_method", "call_function"):
            source = _flattened(node, target)
            if source is not None:
                node.op, node.target = "call_function", torch.flatten
                node.args, node.kwargs = (source, 1), {}


def _repeat(model: fx.GraphModule, node: fx.Node) -> None:
    """Repeat an operand [N, 1, H, W] of a sum or product with [N, C, H, W], so that both have one shape."""
    shapes: list[tuple[int, ...]] = [x.meta.get(SHAPE, ()) if isinstance(x, fx.Node) else () for x in node.args]
    whole: tuple[int, ...] = node.meta.get(SHAPE, ())
    for at, shape in enumerate(shapes):
        if len(whole) == 4 and len(shape) == 4 and (shape[1], shape[2:]) == (1, whole[2:]) and whole[1] > 1:
            name = f"{node.name}_repeated_{at}"
            model.add_submodule(name, RepeatChannel(whole[1]))
            with model.graph.inserting_before(node):
                repeated = model.graph.call_module(name, (node.args[at],))
            repeated.meta = {**node.meta}
            node.update_arg(at, repeated)


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
    """The value [N, C, 1, 1] of which a node is [N, C] in a spelling that says nothing of it; None for other nodes."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    bare = target in SQUEEZES and len(node.args) == 1 and not node.kwargs
    index = target is operator.getitem and node.args[1] == (slice(None), slice(None), 0, 0)
    return source if (bare or index) and source.meta.get(SHAPE, ())[2:] == (1, 1) else None
