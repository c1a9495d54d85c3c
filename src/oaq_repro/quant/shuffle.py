"""Channel shuffles as networks write them: view [N, g, C / g, H, W], transpose, view [N, C, H, W]."""

from typing import Any

import torch
from torch import fx, nn

VIEWS = ("view", "reshape", torch.reshape)
TRANSPOSES = ("transpose", "swapaxes", torch.transpose, torch.swapaxes)
PERMUTES = ("permute", torch.permute)
FLATTENS = ("flatten", torch.flatten)
SWAPPED = (0, 2, 1, 3, 4)


def name_shuffle(model: fx.GraphModule, node: fx.Node) -> None:
    """Replace a shuffle that ends at `node` by a call of `nn.ChannelShuffle`, which conversion knows."""
    swap = _source(node, (*VIEWS, *FLATTENS))
    if swap is None or len(swap.users) != 1 or not _swaps(swap):
        return
    view = _source(swap, (*TRANSPOSES, *PERMUTES))
    if view is None or len(view.users) != 1 or _source(view, VIEWS) is None:
        return
    split, merged = _sizes(view), _sizes(node)
    if node.target in FLATTENS:
        restored = merged == (1, 2)
    else:  # as many elements are left for the channels as there are, if all else is as it was
        restored = len(split) == 5 and len(merged) == 4 and (merged[0], *merged[2:]) == (split[0], *split[3:])
    if len(split) != 5 or not restored or not isinstance(split[1], int) or split[1] < 1:
        return
    name = node.name
    model.add_submodule(name, nn.ChannelShuffle(split[1]))
    with model.graph.inserting_before(node):
        shuffled = model.graph.call_module(name, (view.args[0],))
    node.replace_all_uses_with(shuffled)
    for done in (node, swap, view):
        model.graph.erase_node(done)


def _source(node: fx.Node, targets: tuple[Any, ...]) -> fx.Node | None:
    """The first argument of a call of one of these functions or methods, where it is a value."""
    called = node.op in ("call_function", "call_method") and node.target in targets
    source = node.args[0] if called and node.args else None
    return source if isinstance(source, fx.Node) else None


def _sizes(node: fx.Node) -> tuple[Any, ...]:
    """The arguments after the first, be they in a tuple or not."""
    rest = node.args[1:]
    return tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)


def _swaps(node: fx.Node) -> bool:
    """Whether a call exchanges the dimensions 1 and 2, of five."""
    sizes = _sizes(node)
    if node.target in PERMUTES:
        return sizes == SWAPPED
    return node.target in TRANSPOSES and set(sizes) in ({1, 2}, {-4, -3}, {1, -3}, {-4, 2})
