"""The table: which float pattern becomes which quantized module.

A row maps a module class, a function or a tensor method to a builder. A builder gets the fx node, the float
module (None for functions) and a `Context`, and returns the quantized module with the nodes that feed it
(`building.py`). Functions of one number have no rows: `elementwise.py` finds them. What is neither cannot be quantized,
and conversion says so.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion import pool_patterns
from oaq_repro.quant.conversion.building import Builder, Built, Context, arguments
from oaq_repro.quant.conversion.padding import both, padding_before
from oaq_repro.quant.conversion.resize_patterns import interpolate
from oaq_repro.quant.conversion.sizes import SHAPE
from oaq_repro.quant.conversion.trace import input_node, module_of, tensor_inputs
from oaq_repro.quant.conversion.views import (
    PRODUCTS,
    SUMS,
    VIEWS,
    RepeatChannel,
    Squeeze,
    Unsqueeze,
    is_batch,
    view_sizes,
)
from oaq_repro.quant.layers import QuantConv2d, QuantConvTranspose2d, QuantLinear
from oaq_repro.quant.modules import QuantAdd, QuantConcat, QuantFlatten, QuantMultiply, QuantPixelShuffle
from oaq_repro.quant.quantizers import Activation
from oaq_repro.quant.select import QuantSelect, selected_channels, selection_source


def _conv(node: fx.Node, module: nn.Conv2d, context: Context) -> Built:
    left, right, top, bottom = module._reversed_padding_repeated_twice  # numbers for "same", too
    if module.padding_mode != "zeros" and any((left, right, top, bottom)):
        raise InputError(f"{node.target}: found padding of mode {module.padding_mode!r}, expected zeros")
    padding = both((top, left, bottom, right), padding_before(node))
    accumulator, reason = context.accumulator()
    quantized = QuantConv2d(module, context.weights(), context.output(), accumulator, reason, padding)
    return quantized, [input_node(node)]


def _conv_transpose(node: fx.Node, module: nn.ConvTranspose2d, context: Context) -> Built:
    if len(node.args) != 1 or node.kwargs:
        raise InputError(f"{node.target}: found an output_size, expected that which the layer's own fields give")
    accumulator, reason = context.accumulator()
    quantized = QuantConvTranspose2d(module, context.weights(), context.output(), accumulator, reason)
    return quantized, [input_node(node)]


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


def _pixel_shuffle(node: fx.Node, module: nn.PixelShuffle | None, context: Context) -> Built:
    block = (
        module.upscale_factor if module is not None else arguments(node, ("input", "upscale_factor"))["upscale_factor"]
    )
    return QuantPixelShuffle(block), [input_node(node)]


def _concat(node: fx.Node, module: None, context: Context) -> Built:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    rank = len(tensor_inputs(node)[0].meta.get(SHAPE, (0,) * 4))
    if dim not in (1, 1 - rank):
        raise InputError(f"{node.name}: found a concatenation along dimension {dim}, expected the channels (1)")
    return QuantConcat(context.output()), tensor_inputs(node)


def _flatten(node: fx.Node, module: nn.Flatten | None, context: Context) -> Built:
    fields = vars(module) if module is not None else arguments(node, ("input", "start_dim", "end_dim"))
    start, end = fields.get("start_dim", 0), fields.get("end_dim", -1)
    if (start, end) != (1, -1):
        raise InputError(f"{node.name}: found flatten({start}, {end}), expected flatten(1, -1)")
    return QuantFlatten(), [input_node(node)]


def _repeat(node: fx.Node, module: RepeatChannel, context: Context) -> Built:
    return QuantSelect([0] * module.count), [input_node(node)]


def _squeeze(node: fx.Node, module: Squeeze | Unsqueeze, context: Context) -> Built:
    return QuantFlatten(keepdims=isinstance(module, Unsqueeze), single=True), [input_node(node)]


def _view(node: fx.Node, module: None, context: Context) -> Built:
    sizes = view_sizes(node)
    if len(sizes) not in (2, 4) or not is_batch(sizes[0], sizes[1:]) or sizes[2:] not in ((), (1, 1)):
        raise InputError(f"{node.name}: found {node.target}{sizes}, expected [N, K] or [N, K, 1, 1], N = x.size(0)")
    count = sizes[1] if isinstance(sizes[1], int) and sizes[1] > 0 else None
    return QuantFlatten(keepdims=len(sizes) == 4, count=count), [input_node(node)]


PATTERNS: dict[Any, Builder] = {
    nn.Conv2d: _conv,
    nn.ConvTranspose2d: _conv_transpose,
    nn.Linear: _linear,
    **dict.fromkeys(SUMS, _add),
    **dict.fromkeys(PRODUCTS, _multiply),
    torch.cat: _concat,
    nn.PixelShuffle: _pixel_shuffle,
    F.pixel_shuffle: _pixel_shuffle,
    torch.pixel_shuffle: _pixel_shuffle,
    nn.ChannelShuffle: _select,
    F.channel_shuffle: _select,
    operator.getitem: _select,
    nn.MaxPool2d: pool_patterns.max_pool,
    F.max_pool2d: pool_patterns.max_pool,
    torch.max_pool2d: pool_patterns.max_pool,
    nn.AvgPool2d: pool_patterns.avg_pool,
    F.avg_pool2d: pool_patterns.avg_pool,
    nn.AdaptiveAvgPool2d: pool_patterns.adaptive_pool,
    F.adaptive_avg_pool2d: pool_patterns.adaptive_pool,
    "mean": pool_patterns.mean,
    torch.mean: pool_patterns.mean,
    nn.Flatten: _flatten,
    "flatten": _flatten,
    torch.flatten: _flatten,
    **dict.fromkeys(VIEWS, _view),
    Squeeze: _squeeze,
    Unsqueeze: _squeeze,
    RepeatChannel: _repeat,
    F.interpolate: interpolate,
    nn.Upsample: interpolate,
    nn.UpsamplingNearest2d: interpolate,
    nn.UpsamplingBilinear2d: interpolate,
}
"""Keys: module classes (matched exactly), functions, and names of tensor methods."""
OWN = (Squeeze, Unsqueeze, RepeatChannel)  # which no user has written


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
            fields = arguments(node, ("input", "min", "max"))
            bounds = (fields.get("min", fields.get("min_val")), fields.get("max", fields.get("max_val")))
        return "relu6" if bounds == (0, 6) else None
    return None
