"""The same values in other shapes, as networks write them: as the modules and calls that conversion knows.

A channel shuffle is a view [N, g, C / g, H, W], a transpose, a view [N, C, H, W]. Between [N, C, 1, 1] and [N, C] there
are two calls of squeeze or unsqueeze. What is expanded only to be multiplied need not be.
"""

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

VIEWS = ("view", "reshape", torch.reshape)
TRANSPOSES = ("transpose", "swapaxes", torch.transpose, torch.swapaxes)
PERMUTES = ("permute", torch.permute)
FLATTENS = ("flatten", torch.flatten)
SQUEEZES = ("squeeze", torch.squeeze)
UNSQUEEZES = ("unsqueeze", torch.unsqueeze)
SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
SWAPPED = (0, 2, 1, 3, 4)


class Squeeze(nn.Module):
    """[N, C, 1, 1] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C, 1, 1]."""
        return x.squeeze(3).squeeze(2)


class Unsqueeze(nn.Module):
    """[N, C] to [N, C, 1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, C]."""
        return x[:, :, None, None]


class RepeatChannel(nn.Module):
    """[N, 1, H, W] to [N, count, H, W]: what a product or sum with images of so many channels makes of it."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, 1, H, W]."""
        return x.expand(-1, self.count, -1, -1)


def name_views(model: fx.GraphModule) -> None:
    """Replace all of them in a traced network."""
    for node in list(model.graph.nodes):
        _name_shuffle(model, node)
        _name_pair(model, node, SQUEEZES, Squeeze, (4, 3))
        _name_pair(model, node, UNSQUEEZES, Unsqueeze, (3, 4))
        _drop_expansion(model, node)


def _name_shuffle(model: fx.GraphModule, node: fx.Node) -> None:
    """Replace a shuffle that ends at `node` by a call of `nn.ChannelShuffle`, which conversion knows."""
    swap = _source(node, (*VIEWS, *FLATTENS))
    if swap is None or len(swap.users) != 1 or not _swaps(swap):
        return
    view = _source(swap, (*TRANSPOSES, *PERMUTES))
    if view is None or len(view.users) != 1 or _source(view, VIEWS) is None:
        return
    split, merged = view_sizes(view), view_sizes(node)
    if node.target in FLATTENS:
        restored = merged == (1, 2)
    else:  # as many elements are left for the channels as there are, if all else is as it was
        restored = len(split) == 5 and len(merged) == 4 and (merged[0], *merged[2:]) == (split[0], *split[3:])
    if len(split) != 5 or not restored or not isinstance(split[1], int) or split[1] < 1:
        return
    _replace(model, [view, swap, node], nn.ChannelShuffle(split[1]))


def _name_pair(
    model: fx.GraphModule, node: fx.Node, calls: tuple[Any, ...], module: type[nn.Module], ranks: tuple[int, int]
) -> None:
    """Replace two calls about one dimension each, or one about both, that concern height and width.

    ranks: dimensions of the tensors whose dimensions the first and the second call count.
    """
    last = _dimensions(node, calls)
    if len(last) == 2:
        if sorted(d % 4 for d in last) == [2, 3]:
            _replace(model, [node], module())
        return
    first = _source(node, calls)
    before = () if first is None else _dimensions(first, calls)
    if first is None or len(first.users) != 1 or len(last) != 1 or len(before) != 1:
        return
    if before[0] % ranks[0] >= 2 and last[0] % ranks[1] >= 2:
        _replace(model, [first, node], module())


def _dimensions(node: fx.Node, calls: tuple[Any, ...]) -> tuple[int, ...]:
    """The dimensions that a call names; () where it is another call, or names none in numbers."""
    if _source(node, calls) is None:
        return ()
    found = view_sizes(node) or tuple(node.kwargs.values())
    return found if all(isinstance(d, int) for d in found) else ()


def _drop_expansion(model: fx.GraphModule, node: fx.Node) -> None:
    """`a * b.expand_as(a)` is `a * b`."""
    source = _source(node, ("expand_as",))
    like = node.args[1] if source is not None and len(node.args) > 1 else None
    if source is not None and all(user.target in PRODUCTS and like in user.args for user in node.users):
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)


def _replace(model: fx.GraphModule, nodes: list[fx.Node], module: nn.Module) -> None:
    """One module for a chain of nodes."""
    name = nodes[-1].name
    model.add_submodule(name, module)
    with model.graph.inserting_before(nodes[-1]):
        new = model.graph.call_module(name, (nodes[0].args[0],))
    nodes[-1].replace_all_uses_with(new)
    for done in reversed(nodes):
        model.graph.erase_node(done)


def _source(node: fx.Node, targets: tuple[Any, ...]) -> fx.Node | None:
    """The first argument of a call of one of these functions or methods, where it is a value."""
    called = node.op in ("call_function", "call_method") and node.target in targets
    source = node.args[0] if called and node.args else None
    return source if isinstance(source, fx.Node) else None


def view_sizes(node: fx.Node) -> tuple[Any, ...]:
    """The arguments after the first, be they in a tuple or not."""
    rest = node.args[1:]
    return tuple(rest[0]) if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else tuple(rest)


def is_batch(size: Any, rest: tuple[Any, ...]) -> bool:
    """Whether a size is the batch's, `x.size(0)` or `x.shape[0]`, or whatever is left by other sizes in numbers."""
    if size == -1:
        return all(isinstance(other, int) and other > 0 for other in rest)
    if not isinstance(size, fx.Node):
        return False
    if size.op == "call_method" and size.target == "size":
        return bool(size.args[1:] == (0,))
    source = size.args[0] if size.target is operator.getitem and size.args[1] == 0 else None
    if not isinstance(source, fx.Node):
        return False
    is_shape = source.target is getattr and source.args[1] == "shape"
    return bool(is_shape or (source.op == "call_method" and source.target == "size" and len(source.args) == 1))


def _swaps(node: fx.Node) -> bool:
    """Whether a call exchanges the dimensions 1 and 2, of five."""
    sizes = view_sizes(node)
    if node.target in PERMUTES:
        return sizes == SWAPPED
    return node.target in TRANSPOSES and set(sizes) in ({1, 2}, {-4, -3}, {1, -3}, {-4, 2})
