"""The table: which float pattern becomes which quantized module.

A row maps a module class, a function or a tensor method to a builder. A builder gets the fx node, the float
module (None for functions) and a `Context`, and returns the quantized module with the nodes that feed it.
Functions of one number have no rows: `elementwise.py` finds them. What is neither cannot be quantized, and conversion
says so.
"""

import operator
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.layers import QuantConv2d, QuantLinear
from oaq_repro.quant.modules import (
    QuantAdd,
    QuantAvgPool2d,
    QuantConcat,
    QuantFlatten,
    QuantGlobalAvgPool,
    QuantMaxPool2d,
    QuantModule,
    QuantMultiply,
)
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer
from oaq_repro.quant.resize import QuantResize
from oaq_repro.quant.select import CHANNELS, QuantSelect, selected_channels, selection_source
from oaq_repro.quant.trace import input_node, module_of, size_source, tensor_inputs
from oaq_repro.quant.views import PRODUCTS, VIEWS, Squeeze, Unsqueeze, is_batch, view_sizes


class Context(Protocol):
    """What a builder may ask of the conversion, for the layer at hand."""

    def output(self) -> ActivationQuantizer:
        """The output quantizer, with the activation that follows the node fused into it."""

    def weights(self) -> WeightQuantizer:
        """The weight quantizer."""

    def accumulator(self) -> tuple[Accumulator, str]:
        """The accumulator and why it was chosen."""

    def channels(self, node: fx.Node) -> int | None:
        """Number of channels of a node's value, None where it is not known."""


Built = tuple[QuantModule | None, list[fx.Node]]
"""None: the value is its input, unchanged."""
Builder = Callable[[fx.Node, Any, Context], Built]


def pair(value: int | tuple[int, int] | None, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """An int or pair as a pair."""
    if value is None:
        return default
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _conv(node: fx.Node, module: nn.Conv2d, context: Context) -> Built:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise InputError(
            f"{node.target}: found padding {module.padding!r} of mode {module.padding_mode!r}, expected numbers, zeros"
        )
    accumulator, reason = context.accumulator()
    return QuantConv2d(module, context.weights(), context.output(), accumulator, reason), [input_node(node)]


def _linear(node: fx.Node, module: nn.Linear, context: Context) -> Built:
    accumulator, reason = context.accumulator()
    return QuantLinear(module, context.weights(), context.output(), accumulator, reason), [input_node(node)]


def _add(node: fx.Node, module: None, context: Context) -> Built:
    inputs = tensor_inputs(node)
    if len(inputs) != 2 or node.kwargs.get("alpha", 1) != 1:
        raise InputError(f"{node.name}: found an addition of {node.args}, expected two tensors")
    return QuantAdd(context.output()), inputs


def _multiply(node: fx.Node, module: None, context: Context) -> Built:
    inputs = tensor_inputs(node)
    if len(inputs) != 2:
        raise InputError(f"{node.name}: found a product of {node.args}, expected two tensors")
    return QuantMultiply(context.output()), inputs


def _select(node: fx.Node, module: nn.ChannelShuffle | None, context: Context) -> Built:
    if node.target is operator.getitem and node.args[1] == (slice(None), slice(None), None, None):
        return QuantFlatten(keepdims=True, single=True), [input_node(node)]
    before = selection_source(node)
    count = None if before is None else context.channels(before)
    source, channels = selected_channels(node, module, count)
    model = node.graph.owning_module
    assert model is not None
    first = module_of(model, source)
    if isinstance(first, QuantSelect):  # a part of a shuffle is a selection of what was shuffled
        source, channels = input_node(source), first.channels[channels].tolist()
    return None if channels == list(range(context.channels(source) or 0)) else QuantSelect(channels), [source]


def _concat(node: fx.Node, module: None, context: Context) -> Built:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim not in CHANNELS:
        raise InputError(f"{node.name}: found a concatenation along dimension {dim}, expected the channels (1)")
    return QuantConcat(context.output()), tensor_inputs(node)


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a function call by name, positions resolved."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _pool_fields(node: fx.Node, module: nn.Module | None, names: tuple[str, ...]) -> dict[str, Any]:
    return vars(module) if module is not None else _arguments(node, ("input", *names))


def _max_pool(node: fx.Node, module: nn.MaxPool2d | None, context: Context) -> Built:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    fields = _pool_fields(node, module, names)
    kernel = pair(fields["kernel_size"])
    pool = QuantMaxPool2d(
        kernel,
        pair(fields.get("stride"), kernel),
        pair(fields.get("padding", 0)),
        pair(fields.get("dilation", 1)),
        bool(fields.get("ceil_mode", False)),
    )
    return pool, [input_node(node)]


def _avg_pool(node: fx.Node, module: nn.AvgPool2d | None, context: Context) -> Built:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    fields = _pool_fields(node, module, names)
    kernel, padding = pair(fields["kernel_size"]), pair(fields.get("padding", 0))
    uncounted = padding != (0, 0) and not fields.get("count_include_pad", True)
    if fields.get("ceil_mode") or fields.get("divisor_override") or uncounted:
        raise InputError(
            f"{node.name}: no integer form of ceil_mode, divisor_override or uncounted padding in average pooling"
        )
    return QuantAvgPool2d(context.output(), kernel, pair(fields.get("stride"), kernel), padding), [input_node(node)]


def _adaptive_pool(node: fx.Node, module: nn.AdaptiveAvgPool2d | None, context: Context) -> Built:
    size = module.output_size if module is not None else _arguments(node, ("input", "output_size"))["output_size"]
    if size not in (1, (1, 1), [1, 1]):
        raise InputError(f"{node.name}: found adaptive average pooling to {size}, expected 1x1")
    return QuantGlobalAvgPool(context.output(), keepdims=True), [input_node(node)]


def _mean(node: fx.Node, module: None, context: Context) -> Built:
    fields = _arguments(node, ("input", "dim", "keepdim"))
    dims = fields.get("dim")
    if sorted(d % 4 for d in (dims if isinstance(dims, (tuple, list)) else ())) != [2, 3]:
        raise InputError(f"{node.name}: found a mean over dimensions {dims}, expected the spatial ones (2, 3)")
    return QuantGlobalAvgPool(context.output(), keepdims=bool(fields.get("keepdim", False))), [input_node(node)]


def _flatten(node: fx.Node, module: nn.Flatten | None, context: Context) -> Built:
    fields = vars(module) if module is not None else _arguments(node, ("input", "start_dim", "end_dim"))
    start, end = fields.get("start_dim", 0), fields.get("end_dim", -1)
    if (start, end) != (1, -1):
        raise InputError(f"{node.name}: found flatten({start}, {end}), expected flatten(1, -1)")
    return QuantFlatten(), [input_node(node)]


def _squeeze(node: fx.Node, module: Squeeze | Unsqueeze, context: Context) -> Built:
    return QuantFlatten(keepdims=isinstance(module, Unsqueeze), single=True), [input_node(node)]


def _view(node: fx.Node, module: None, context: Context) -> Built:
    sizes = view_sizes(node)
    if len(sizes) not in (2, 4) or not is_batch(sizes[0], sizes[1:]) or sizes[2:] not in ((), (1, 1)):
        raise InputError(f"{node.name}: found {node.target}{sizes}, expected [N, K] or [N, K, 1, 1], N = x.size(0)")
    count = sizes[1] if isinstance(sizes[1], int) and sizes[1] > 0 else None
    return QuantFlatten(keepdims=len(sizes) == 4, count=count), [input_node(node)]


def _interpolate(node: fx.Node, module: None, context: Context) -> Built:
    fields = _arguments(node, ("input", "size", "scale_factor", "mode", "align_corners"))
    size = fields.get("size")
    like = size_source(size) if isinstance(size, fx.Node) else None
    if fields.get("mode") != "bilinear" or fields.get("antialias") or like is None:
        raise InputError(
            f"{node.name}: found interpolate(size={size}, mode={fields.get('mode')!r}), "
            "expected mode 'bilinear' to the spatial size of another tensor"
        )
    return QuantResize(bool(fields.get("align_corners"))), [input_node(node), like]


PATTERNS: dict[Any, Builder] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    **dict.fromkeys(PRODUCTS, _multiply),
    torch.cat: _concat,
    nn.ChannelShuffle: _select,
    F.channel_shuffle: _select,
    operator.getitem: _select,
    nn.MaxPool2d: _max_pool,
    F.max_pool2d: _max_pool,
    torch.max_pool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    F.avg_pool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    F.adaptive_avg_pool2d: _adaptive_pool,
    "mean": _mean,
    torch.mean: _mean,
    nn.Flatten: _flatten,
    "flatten": _flatten,
    torch.flatten: _flatten,
    **dict.fromkeys(VIEWS, _view),
    Squeeze: _squeeze,
    Unsqueeze: _squeeze,
    F.interpolate: _interpolate,
}
"""Keys: module classes (matched exactly), functions, and names of tensor methods."""


def activation_of(node: fx.Node, module: nn.Module | None) -> Activation | None:
    """The activation that a node computes, or None when it is no activation."""
    target = type(module) if module is not None else node.target
    if target in (nn.ReLU, F.relu, torch.relu, "relu"):
        return "relu"
    if target in (nn.ReLU6, F.relu6):
        return "relu6"
    if target in (nn.Hardtanh, F.hardtanh, torch.clamp, torch.clip, "clamp", "clip", "clamp_"):
        if module is not None:
            bounds: tuple[Any, Any] = (module.min_val, module.max_val)
        else:
            fields = _arguments(node, ("input", "min", "max"))
            bounds = (fields.get("min", fields.get("min_val")), fields.get("max", fields.get("max_val")))
        return "relu6" if bounds == (0, 6) else None
    return None
