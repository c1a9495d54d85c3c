"""Pools: which float pattern becomes which quantized module (`patterns.py`)."""

from typing import Any

from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.building import Built, Context, arguments, pair
from oaq_repro.quant.conversion.padding import both, padding_before, sides_of
from oaq_repro.quant.conversion.sizes import SHAPE
from oaq_repro.quant.conversion.trace import input_node
from oaq_repro.quant.numerics import Sides
from oaq_repro.quant.pools import QuantAvgPool2d, QuantGlobalAvgPool, QuantMaxPool2d


def _pool_fields(node: fx.Node, module: nn.Module | None, names: tuple[str, ...]) -> dict[str, Any]:
    return vars(module) if module is not None else arguments(node, ("input", *names))


def max_pool(node: fx.Node, module: nn.MaxPool2d | None, context: Context) -> Built:
    """Maxima of windows. InputError for `ceil_mode` after a padding of its own."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    fields = _pool_fields(node, module, names)
    kernel, ceil_mode = pair(fields["kernel_size"]), bool(fields.get("ceil_mode", False))
    before = padding_before(node)
    if ceil_mode and any(before):
        raise InputError(f"{node.name}: no integer form of ceil_mode in maximum pooling after a padding of its own")
    padding = both(before, sides_of(fields.get("padding", 0)))
    stride, dilation = pair(fields.get("stride"), kernel), pair(fields.get("dilation", 1))
    return QuantMaxPool2d(kernel, stride, padding, dilation, ceil_mode), [input_node(node)]


def avg_pool(node: fx.Node, module: nn.AvgPool2d | None, context: Context) -> Built:
    """Means of windows. InputError for other divisors than the window has."""
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


def adaptive_pool(node: fx.Node, module: nn.AdaptiveAvgPool2d | None, context: Context) -> Built:
    """Adaptive pooling to 1x1; other sizes are ordinary windows before (`ordinary.py`), or an InputError."""
    size = module.output_size if module is not None else arguments(node, ("input", "output_size"))["output_size"]
    if size not in (1, (1, 1), [1, 1]):
        raise InputError(f"{node.name}: found adaptive average pooling to {size}, expected 1x1")
    return QuantGlobalAvgPool(context.output(), keepdims=True), [input_node(node)]


def mean(node: fx.Node, module: None, context: Context) -> Built:
    """A mean over height and width. InputError for other dimensions."""
    fields = arguments(node, ("input", "dim", "keepdim"))
    dims = fields.get("dim")
    if sorted(d % 4 for d in (dims if isinstance(dims, (tuple, list)) else ())) != [2, 3]:
        raise InputError(f"{node.name}: found a mean over dimensions {dims}, expected the spatial ones (2, 3)")
    return QuantGlobalAvgPool(context.output(), keepdims=bool(fields.get("keepdim", False))), [input_node(node)]
