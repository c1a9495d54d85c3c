"""Some channels of a tensor: slices, splits, shuffles. Codes pass through."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.modules import QuantModule, Value
from oaq_repro.quant.numerics import QTensor

CHANNELS = (1, -3)  # the dimension, of images
PARTS = ("chunk", "split", "tensor_split", torch.chunk, torch.split, torch.tensor_split)
"""Functions and methods that give several tensors."""


class QuantSelect(QuantModule):
    """Channel i of the result is channel `channels[i]` of the input."""

    channels: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("channels", torch.tensor(channels, dtype=torch.int64), persistent=False)

    def forward(self, x: Value) -> Value:
        """x: [N, C, ...]; result [N, len(channels), ...]."""
        if isinstance(x, QTensor):
            return x._replace(codes=x.codes.index_select(1, self.channels))
        return x.index_select(1, self.channels)

    def output_channels(self, inputs: Sequence[int | None]) -> int | None:
        """As many as are selected."""
        return len(self.channels)


def is_parts(node: fx.Node) -> bool:
    """Whether a node gives several tensors, which `selected_channels` resolves one by one."""
    return node.op in ("call_function", "call_method") and node.target in PARTS


def selected_channels(node: fx.Node, module: nn.ChannelShuffle | None, count: int | None) -> tuple[fx.Node, list[int]]:
    """The source of a node (shuffle or getitem), and which of the source's `count` channels it selects.

    Raises InputError for selections along other dimensions, and where the number of channels is not known.
    """
    known = range(count or 0)
    source: Any
    index: Any
    if node.target is not operator.getitem:
        source, *rest = node.args
        groups: Any = module.groups if module is not None else (rest or list(node.kwargs.values()))[0]
        _expect_count(node, count)
        if len(known) % groups:
            raise InputError(f"{node.name}: found a shuffle of {count} channels in {groups} groups")
        size = len(known) // groups
        return source, [group * size + i for i in range(size) for group in range(groups)]
    source, index = node.args
    if is_parts(source):
        _expect_count(node, count)
        return source.args[0], _part(source, index, known)
    if not isinstance(index, tuple) or not all(isinstance(part, slice) for part in index):
        raise InputError(f"{node.name}: found the index {index!r}, expected slices of the channels: x[:, a:b]")
    others = [part for at, part in enumerate(index) if at != 1 and part != slice(None)]
    if others or any(isinstance(v, fx.Node) for v in (index[1].start, index[1].stop, index[1].step)):
        raise InputError(f"{node.name}: found the index {index!r}, expected slices of the channels in numbers")
    _expect_count(node, count)
    return source, [*known[index[1].start : index[1].stop : index[1].step]]


def selection_source(node: fx.Node) -> fx.Node | None:
    """The tensor whose channels a node may select."""
    source = node.args[0] if node.args else None
    if isinstance(source, fx.Node) and is_parts(source):
        source = source.args[0]
    return source if isinstance(source, fx.Node) else None


def _expect_count(node: fx.Node, count: int | None) -> None:
    if count is None:
        raise InputError(f"{node.name}: found a selection from an unknown number of channels, expected images")


def _part(node: fx.Node, index: Any, channels: range) -> list[int]:
    """Channels of one of the tensors of chunk or split, as torch cuts them."""
    name = str(getattr(node.target, "__name__", node.target))
    names = {"chunk": "chunks", "split": "split_size_or_sections", "tensor_split": "indices_or_sections"}
    fields = dict(zip(("input", names.get(name, ""), "dim"), node.args, strict=False)) | node.kwargs
    how = fields.get(names.get(name, ""), fields.get("split_size"))
    if name not in names or fields.get("dim", 0) not in CHANNELS or how is None or not isinstance(index, int):
        raise InputError(f"{node.name}: found {name}{tuple(node.args[1:])}, expected a split of the channels (dim=1)")
    parts = getattr(torch, name)(torch.tensor(channels), how)
    return parts[index].tolist()
