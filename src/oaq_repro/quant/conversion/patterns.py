"""The table: which float pattern becomes which quantized module.

A row maps a module class, a function or a tensor method to a builder. A builder gets the fx node, the float
module (None for functions) and a `Context`, and returns the quantized module with the nodes that feed it.
Functions of one number have no rows: `elementwise.py` finds them. What is neither cannot be quantized, and conversion
says so.
"""

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import fx, nn

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.padding import both, padding_before, sides_of
from oaq_repro.quant.conversion.sizes import SHAPE
from oaq_repro.quant.conversion.trace import input_node, module_of, size_source, tensor_inputs
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
from oaq_repro.quant.modules import (
    QuantAdd,
    QuantConcat,
    QuantFlatten,
    QuantModule,
    QuantMultiply,
    QuantPixelShuffle,
)
from oaq_repro.quant.numerics import Sides
from oaq_repro.quant.pools import QuantAvgPool2d, QuantGlobalAvgPool, QuantMaxPool2d
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer
from oaq_repro.quant.resize import Factor, QuantResize, QuantResizeNearest
from oaq_repro.quant.select import QuantSelect, selected_channels, selection_source


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


NEAREST = {"nearest": "floor", "nearest-exact": "half_pixel"}  # rules of `resampling.nearest_pixels`
LARGEST_DENOMINATOR = 1024
Built = tuple[QuantModule | None, list[fx.Node]]
"""None: the value is its input, unchanged."""
Builder = Callable[[fx.Node, Any, Context], Built]


def pair(value: int | tuple[int, int] | None, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """An int or pair as a pair."""
    if value is None:
        return default
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


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
        module.upscale_factor if module is not None else _arguments(node, ("input", "upscale_factor"))["upscale_factor"]
    )
    return QuantPixelShuffle(block), [input_node(node)]


def _concat(node: fx.Node, module: None, context: Context) -> Built:
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    rank = len(tensor_inputs(node)[0].meta.get(SHAPE, (0,) * 4))
    if dim not in (1, 1 - rank):
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
    kernel, ceil_mode = pair(fields["kernel_size"]), bool(fields.get("ceil_mode", False))
    before = padding_before(node)
    if ceil_mode and any(before):
        raise InputError(f"{node.name}: no integer form of ceil_mode in maximum pooling after a padding of its own")
    padding = both(before, sides_of(fields.get("padding", 0)))
    stride, dilation = pair(fields.get("stride"), kernel), pair(fields.get("dilation", 1))
    return QuantMaxPool2d(kernel, stride, padding, dilation, ceil_mode), [input_node(node)]


def _avg_pool(node: fx.Node, module: nn.AvgPool2d | None, context: Context) -> Built:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    fields = _pool_fields(node, module, names)
    kernel, own, before = pair(fields["kernel_size"]), sides_of(fields.get("padding", 0)), padding_before(node)
    stride, counted = pair(fields.get("stride"), kernel), fields.get("count_include_pad", True) or not any(own)
    uneven = fields.get("ceil_mode") and not _fit(node, kernel, stride, own)
    if uneven or fields.get("divisor_override") or (any(before) and not counted):
        raise InputError(
            f"{node.name}: no integer form of divisor_override, of ceil_mode where the last window is cut off, or of "
            "counted beside uncounted padding in average pooling"
        )
    return QuantAvgPool2d(context.output(), kernel, stride, both(own, before), counted), [input_node(node)]


def _fit(node: fx.Node, kernel: tuple[int, int], stride: tuple[int, int], padding: Sides) -> bool:
    """Whether windows end with the image, at the size for which the network is converted."""
    sizes = input_node(node).meta.get(SHAPE, ())[2:]
    ends = zip(sizes, kernel, stride, padding[:2], strict=False)
    return bool(sizes) and all((size + 2 * p - k) % s == 0 for size, k, s, p in ends)


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


def _interpolate(node: fx.Node, module: nn.Upsample | None, context: Context) -> Built:
    names = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    fields = {"mode": "nearest", **(vars(module) if module is not None else _arguments(node, names))}
    mode, size, source = fields["mode"], fields.get("size"), input_node(node)
    if fields.get("antialias") or mode not in ("bilinear", *NEAREST):
        raise InputError(f"{node.name}: found a resize of mode {mode!r}, expected bilinear or {', '.join(NEAREST)}")
    like = size_source(size) if isinstance(size, fx.Node) else None
    if like is not None and mode == "bilinear":
        return QuantResize(bool(fields.get("align_corners"))), [source, like]
    factor = _resize_factor(node, source, size, fields.get("scale_factor"))
    if mode == "bilinear":
        return QuantResize(bool(fields.get("align_corners")), factor), [source]
    if mode == "nearest-exact" and any(part.denominator % 2 == 0 for part in factor):
        raise InputError(
            f"{node.name}: found nearest-exact by {factor[0]} and {factor[1]}, whose pixels lie in the middle of two"
        )
    return QuantResizeNearest(factor, NEAREST[mode]), [source]


def _resize_factor(node: fx.Node, source: fx.Node, size: Any, scale: Any) -> Factor:
    """The factor of height and width by which a resize multiplies, exactly, at the size at hand."""
    before = source.meta.get(SHAPE, ())[2:]
    if scale is not None:
        scales = scale if isinstance(scale, (tuple, list)) else (scale, scale)
        factors = [Fraction(s).limit_denominator(LARGEST_DENOMINATOR) for s in scales]
        exact = all(float(f) == s and f > 0 for f, s in zip(factors, scales, strict=True))
        whole = [(part * f).denominator == 1 for part, f in zip(before or (1, 1), factors, strict=True)]
        if exact and all(whole):
            return factors[0], factors[1]
    else:
        after = node.meta.get(SHAPE, ())[2:]
        if before and after:
            return Fraction(after[0], before[0]), Fraction(after[1], before[1])
    raise InputError(
        f"{node.name}: found a resize of {list(before) or 'images of any size'} to size {size} or by {scale}; expected "
        "factors that give whole pixels, or a size and the images' input_shape"
    )


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
    RepeatChannel: _repeat,
    F.interpolate: _interpolate,
    nn.Upsample: _interpolate,
    nn.UpsamplingNearest2d: _interpolate,
    nn.UpsamplingBilinear2d: _interpolate,
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
            fields = _arguments(node, ("input", "min", "max"))
            bounds = (fields.get("min", fields.get("min_val")), fields.get("max", fields.get("max_val")))
        return "relu6" if bounds == (0, 6) else None
    return None
