"""Convolutions and matrix products of QDQ models as layers of an integer graph, with ONNX Runtime's arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np

from oaq_repro.integer import nodes as ir
from oaq_repro.integer.checks import LARGEST_PARAMETER
from oaq_repro.integer.onnx_qdq import Array, Pending, Real, Values, along
from oaq_repro.integer.onnx_reader import OnnxNode
from oaq_repro.quant.accumulator import NAMED

BIAS_TOLERANCE = 1e-4  # relative, between the scale of a bias and input scale * weight scale
LARGEST_BIAS = float(2**31 - 1)
MOST_UNEVEN = 8  # rows or columns of padding that one end may have more than the other


def pair(node: OnnxNode, name: str, default: int) -> tuple[int, int]:
    """An attribute for height and width."""
    found = node.attribute(name, (default, default))
    if len(found) != 2:
        raise node.error(f"{name}: found {list(found)}, expected two numbers")
    return found[0], found[1]


def _pads(node: OnnxNode) -> tuple[tuple[int, int], tuple[int, int]]:
    """Explicit padding at the beginning and at the end of height and width."""
    rule = node.attribute("auto_pad", "NOTSET")
    if rule not in ("NOTSET", "VALID"):
        raise node.error(f"auto_pad: found {rule}, expected explicit pads")
    pads = node.attribute("pads", (0, 0, 0, 0)) if rule == "NOTSET" else (0, 0, 0, 0)
    if len(pads) != 4 or not all(0 <= pad <= LARGEST_PARAMETER for pad in pads):
        raise node.error(f"pads: found {list(pads)}, expected four numbers of at least 0")
    return (pads[0], pads[1]), (pads[2], pads[3])


def padding_of(node: OnnxNode) -> tuple[int, int]:
    """Symmetric explicit padding."""
    begin, end = _pads(node)
    if begin != end:
        raise node.error(f"pads: found {[*begin, *end]}, expected the same at the end as at the beginning")
    return begin


def _evenly_padded(node: OnnxNode, weight: Array, dilation: tuple[int, int]) -> tuple[Array, tuple[int, int]]:
    """Weights and symmetric padding: where one end has less, the kernel gets zeros there. The sums stay the same."""
    (top, left), (bottom, right) = _pads(node)
    more = (bottom - top, right - left)
    if (top, left) == (bottom, right):
        return weight, (top, left)
    if any(m % d or abs(m) > MOST_UNEVEN for m, d in zip(more, dilation, strict=True)):
        raise node.error("pads: expected ends that differ by few multiples of the dilation")
    zeros = [(max(m, 0) // d, max(-m, 0) // d) for m, d in zip(more, dilation, strict=True)]
    return np.pad(weight, ((0, 0), (0, 0), *zeros)), (max(top, bottom), max(left, right))


def _weight(values: Values, node: OnnxNode, rank: int, axis: int) -> tuple[Array, Array]:
    """int8 weights as they stand in the model and one float32 scale per index of `axis`."""
    found = values.weights.get(node.input(1))
    if found is None or found.values.dtype not in (np.int8, np.uint8) or found.values.ndim != rank:
        raise node.error(f"weight {node.input(1)!r}: expected a dequantized constant, int8, of {rank} dimensions")
    weight = found.values
    neutral = 0
    if weight.dtype == np.uint8:  # uint8 around 128 is int8 around 0
        weight, neutral = (weight.astype(np.int16) - 128).astype(np.int8), 128
    if weight.size == 0 or (found.zero_point.astype(np.int64) != neutral).any():
        raise node.error(f"weight {node.input(1)!r}: expected zero points of {neutral}, and values")
    if found.scale.size > 1 and along(node, weight, found.scale, found.axis) != axis:
        raise node.error(f"weight {node.input(1)!r}: found scales along axis {found.axis}, expected axis {axis}")
    return weight, np.ascontiguousarray(np.broadcast_to(found.scale.reshape(-1), weight.shape[axis]))


def _bias(values: Values, node: OnnxNode, name: str, scale: Array) -> Array:
    """int32 bias at float32 `scale` [O] = input scale * weight scale; values at another scale are rounded to it."""
    if not name:
        return np.zeros(len(scale), np.int32)
    found, real = values.weights.get(name), values.named_constant(name)
    if found is not None and found.values.dtype == np.int32 and found.values.shape == scale.shape:
        if found.scale.size in (1, len(scale)) and not found.zero_point.any():
            if np.allclose(found.scale, scale, rtol=BIAS_TOLERANCE, atol=0):
                return found.values
            real = found.values * found.scale.astype(np.float64)
    elif real is not None and real.dtype != np.float32:
        real = None
    if real is not None and real.shape == scale.shape:
        codes = np.rint(real / scale.astype(np.float64))
        if (np.abs(codes) <= LARGEST_BIAS).all():  # false for NaN
            return codes.astype(np.int32)
    raise node.error(f"bias {name!r}: expected {len(scale)} constants, float32 or dequantized int32, within int32")


def _layer(
    values: Values, node: OnnxNode, weight: Array, weight_scale: Array, bias: str
) -> Callable[[ir.QParams], dict[str, Any]]:
    """Everything of a layer but its name and geometry, for the QParams of its output."""
    x = values.value(node, 0)
    with np.errstate(over="ignore", under="ignore"):
        scale = values.q[x].scale * weight_scale
    codes = _bias(values, node, bias, scale)

    def constants(output: ir.QParams) -> dict[str, Any]:
        with np.errstate(over="ignore", under="ignore"):
            multiplier = scale / output.scale
        return {
            "inputs": (x,), "output": output, "weight": np.ascontiguousarray(weight), "bias": codes,
            "weight_scale": weight_scale, "multiplier": multiplier, "accumulator": NAMED["int32"],
        }  # fmt: skip

    return constants


def conv(values: Values, node: OnnxNode) -> None:
    """Conv in two dimensions."""
    weight, scale = _weight(values, node, 4, 0)
    if node.attribute("kernel_shape", weight.shape[2:]) != weight.shape[2:]:
        raise node.error("kernel_shape: expected that of the weight")
    dilation = pair(node, "dilations", 1)
    if min(dilation) < 1:
        raise node.error(f"dilations: found {list(dilation)}, expected numbers of at least 1")
    weight, padding = _evenly_padded(node, weight, dilation)
    geometry = {
        "stride": pair(node, "strides", 1), "padding": padding, "dilation": dilation,
        "groups": node.attribute("group", 1),
    }  # fmt: skip
    layer = _layer(values, node, weight, scale, node.input(2))
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.Conv(name, **layer(q), **geometry)))


def gemm(values: Values, node: OnnxNode) -> None:
    """Gemm with constant weights."""
    node.expect(alpha=1.0, beta=1.0, transA=0)
    transposed = node.attribute("transB", 0) == 1
    weight, scale = _weight(values, node, 2, 0 if transposed else 1)
    layer = _layer(values, node, weight if transposed else weight.T, scale, node.input(2))
    values.real[node.outputs[0]] = Real(Pending(node, lambda name, q: ir.Linear(name, **layer(q))))


def matmul(values: Values, node: OnnxNode, bias: str = "", origin: OnnxNode | None = None) -> None:
    """MatMul with constant weights; `origin`: the Add of its bias."""
    weight, scale = _weight(values, node, 2, 1)
    layer = _layer(values, node, weight.T, scale, bias)
    made = Real(Pending(node, lambda name, q: ir.Linear(name, **layer(q))))
    values.real[(origin or node).outputs[0]] = made
