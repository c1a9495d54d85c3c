"""Convolutions and matrix products of QDQ models as layers of an integer graph, with ONNX Runtime's arithmetic."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from oaq_repro.accumulator import NAMED
from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes.base import LARGEST_PARAMETER
from oaq_repro.integer.graph.windows import Sides
from oaq_repro.integer.onnx.constants import Dequantized, along
from oaq_repro.integer.onnx.meanings import Pending, Real
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.integer.onnx.values import Values

BIAS_TOLERANCE = 1e-4  # relative, between the scale of a bias and input scale * weight scale
LARGEST_BIAS = float(2**31 - 1)


def pair(node: OnnxNode, name: str, default: int) -> tuple[int, int]:
    """An attribute for height and width."""
    found = node.attribute(name, (default, default))
    if len(found) != 2:
        raise node.error(f"{name}: found {list(found)}, expected two numbers")
    return found[0], found[1]


def padding_of(node: OnnxNode) -> Sides:
    """Explicit padding: top, left, bottom, right."""
    rule = node.attribute("auto_pad", "NOTSET")
    if rule not in ("NOTSET", "VALID"):
        raise node.error(f"auto_pad: found {rule!r}, expected explicit pads")
    pads = node.attribute("pads", (0, 0, 0, 0))
    if len(pads) != 4 or not all(0 <= pad <= LARGEST_PARAMETER for pad in pads):
        raise node.error(f"pads: found {list(pads)}, expected four numbers of at least 0")
    return (0, 0, 0, 0) if rule == "VALID" else (pads[0], pads[1], pads[2], pads[3])


def _weight(values: Values, node: OnnxNode, rank: int, axis: int) -> tuple[Array, Array]:
    """int8 weights around the zero point 0, and one float32 scale per index of `axis`."""
    name = node.input(1)
    found = values.weights.get(name)
    if found is None:
        what = "found a float constant" if values.is_constant(name) else "found no constant"
        raise node.error(f"weight {name!r}: {what}, expected a dequantized constant, int8 or uint8")
    if found.values.dtype not in (np.int8, np.uint8) or found.values.ndim != rank or found.values.size == 0:
        shape = f"{found.values.dtype} {list(found.values.shape)}"
        raise node.error(f"weight {name!r}: found {shape}, expected int8 or uint8 of {rank} dimensions, not empty")
    if found.scale.size > 1 and along(node, found.values, found.scale, found.axis) != axis:
        raise node.error(f"weight {name!r}: found scales along axis {found.axis}, expected axis {axis}")
    weight = _around_zero(node, found, axis)
    return weight, np.ascontiguousarray(np.broadcast_to(found.scale.reshape(-1), weight.shape[axis]))


def _around_zero(node: OnnxNode, found: Dequantized, axis: int) -> Array:
    """Weights less their zero points, where int8 can hold that: uint8 around 128, or narrower ones around others."""
    if found.values.dtype == np.int8 and not found.zero_point.any():
        return found.values
    zero_point = found.zero_point.astype(np.int16).reshape(-1)
    if len(zero_point) > 1:
        zero_point = zero_point.reshape([-1 if at == axis else 1 for at in range(found.values.ndim)])
    shifted = found.values.astype(np.int16) - zero_point
    if shifted.min() < -128 or shifted.max() > 127:
        points = ", ".join(map(str, np.unique(zero_point)[:8]))
        raise node.error(
            f"weight {node.input(1)!r}: found zero points of {points} and, less these, values from {shifted.min()} to "
            f"{shifted.max()}; expected -128 to 127 (zero points of {128 if found.values.dtype == np.uint8 else 0} fit)"
        )
    return shifted.astype(np.int8)


def _bias(values: Values, node: OnnxNode, name: str, scale: Array, shapes: tuple[tuple[int, ...], ...]) -> Array:
    """int32 bias at float32 `scale` [O] = input scale * weight scale; values at another scale are rounded to it.

    `shapes`: those that it may have, -1 for O.
    """
    if not name:
        return np.zeros(len(scale), np.int32)
    found, real = values.weights.get(name), values.named_constant(name)
    wanted = [tuple(len(scale) if size < 0 else size for size in shape) for shape in shapes]
    if found is not None and found.values.shape in wanted:
        plain = found.values.dtype == np.int32 and not found.zero_point.any() and found.scale.size in (1, len(scale))
        if plain and np.allclose(found.scale, scale, rtol=BIAS_TOLERANCE, atol=0):
            return found.values.reshape(-1)
        real = found.real(node)
    if real is not None and real.shape in wanted and real.dtype.kind == "f":
        with np.errstate(over="ignore"):
            codes = np.rint(real.reshape(-1) / scale.astype(np.float64))
        if (np.abs(codes) <= LARGEST_BIAS).all():  # false for NaN
            return codes.astype(np.int32)
    raise node.error(f"bias {name!r}: expected {len(scale)} constants, float32 or dequantized, within int32")


def _layer(
    values: Values, node: OnnxNode, weight: Array, weight_scale: Array, bias: str, shapes: tuple[tuple[int, ...], ...]
) -> Callable[[ir.QParams], dict[str, Any]]:
    """Everything of a layer but its name and geometry, for the QParams of its output."""
    x = values.value(node, 0)
    with np.errstate(over="ignore", under="ignore"):
        scale = values.q[x].scale * weight_scale
    codes = _bias(values, node, bias, scale, shapes)

    def constants(output: ir.QParams) -> dict[str, Any]:
        with np.errstate(over="ignore", under="ignore"):
            multiplier = scale / output.scale
        return {
            "inputs": (x,), "output": output, "weight": np.ascontiguousarray(weight), "bias": codes,
            "weight_scale": weight_scale, "multiplier": multiplier, "accumulator": NAMED["int32"],
        }  # fmt: skip

    return constants


def conv(values: Values, node: OnnxNode, bias: str = "", added: OnnxNode | None = None) -> None:
    """Conv in two dimensions; `bias` of a constant [1, O, 1, 1] that the node `added` adds."""
    _convolution(values, node, *_weight(values, node, 4, 0), ir.Conv, bias, added)


def conv_transpose(values: Values, node: OnnxNode, bias: str = "", added: OnnxNode | None = None) -> None:
    """ConvTranspose in two dimensions, otherwise as `conv`. ONNX Runtime runs it in float."""
    found, scale = _weight(values, node, 4, 1)
    if node.attribute("output_shape", ()):
        raise node.error("output_shape: expected pads and output_padding, which say the same at all sizes")
    groups, (inputs, outputs, *kernel) = node.attribute("group", 1), found.shape
    if groups < 1 or inputs % groups:
        raise node.error(f"group: found {groups}, expected a divisor of the {inputs} input channels")
    weight = found.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    weight = weight.reshape(groups * outputs, inputs // groups, *kernel)
    make = partial(ir.ConvTranspose, output_padding=pair(node, "output_padding", 0))
    _convolution(values, node, weight, np.tile(scale, groups), make, bias, added)


def _convolution(
    values: Values,
    node: OnnxNode,
    weight: Array,
    scale: Array,
    make: Callable[..., ir.Node],
    bias: str,
    added: OnnxNode | None,
) -> None:
    if node.attribute("kernel_shape", weight.shape[2:]) != weight.shape[2:]:
        raise node.error("kernel_shape: expected that of the weight")
    dilation = pair(node, "dilations", 1)
    if min(dilation) < 1:
        raise node.error(f"dilations: found {list(dilation)}, expected numbers of at least 1")
    geometry = {
        "stride": pair(node, "strides", 1), "padding": padding_of(node), "dilation": dilation,
        "groups": node.attribute("group", 1),
    }  # fmt: skip
    shapes = ((-1, 1, 1), (1, -1, 1, 1)) if bias else ((-1,),)
    layer = _layer(values, node, weight, scale, bias or node.input(2), shapes)
    made = Pending(node, lambda name, q: make(name, **layer(q), **geometry))
    values.real[(added or node).outputs[0]] = Real(made)


def gemm(values: Values, node: OnnxNode, bias: str = "", added: OnnxNode | None = None) -> None:
    """Gemm with constant weights; `bias` of a constant [O] or [1, O] that the node `added` adds."""
    node.expect(alpha=1.0, beta=1.0, transA=0)
    transposed = node.flag("transB", False)
    _product(values, node, transposed, bias or node.input(2), added)


def matmul(values: Values, node: OnnxNode, bias: str = "", added: OnnxNode | None = None) -> None:
    """MatMul with constant weights, otherwise as `gemm`."""
    _product(values, node, False, bias, added)


def _product(values: Values, node: OnnxNode, transposed: bool, bias: str, added: OnnxNode | None) -> None:
    weight, scale = _weight(values, node, 2, 0 if transposed else 1)
    layer = _layer(values, node, weight if transposed else weight.T, scale, bias, ((-1,), (1, -1)))
    made = Pending(node, lambda name, q: ir.Linear(name, **layer(q)))
    values.real[(added or node).outputs[0]] = Real(made)


LAYERS = {"Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul}


def add_bias(values: Values, node: OnnxNode) -> bool:
    """Add of a constant to a layer that has no bias yet and is not quantized: its bias. False for another Add."""
    for at in (0, 1):
        real, bias = values.real.get(node.input(at)), node.input(1 - at)
        if real is None or not isinstance(real.source, Pending) or not values.is_constant(bias):
            continue
        origin = real.source.origin
        clamped = (real.low, real.high) != (-np.inf, np.inf)
        if not clamped and origin.outputs[0] == node.input(at) and origin.op in LAYERS and not origin.input(2):
            LAYERS[origin.op](values, origin, bias, node)
            return True
    return False
