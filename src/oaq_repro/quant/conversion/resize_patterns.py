"""Resizes: which float pattern becomes which quantized module (`patterns.py`)."""

from fractions import Fraction
from typing import Any

from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.building import Built, Context, arguments
from oaq_repro.quant.conversion.sizes import SHAPE
from oaq_repro.quant.conversion.trace import input_node, size_source
from oaq_repro.quant.resize import Factor, QuantResize, QuantResizeNearest

NEAREST = {"nearest": "floor", "nearest-exact": "half_pixel"}  # rules of `resampling.nearest_pixels`
LARGEST_DENOMINATOR = 1024


def interpolate(node: fx.Node, module: nn.Upsample | None, context: Context) -> Built:
    """Bilinear or by nearest pixels. InputError for other modes, and factors that give no whole pixels."""
    names = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    fields = {"mode": "nearest", **(vars(module) if module is not None else arguments(node, names))}
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
