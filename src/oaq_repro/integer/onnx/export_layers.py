"""Layers as ONNX nodes: DequantizeLinear -> Conv or Gemm -> QuantizeLinear, or integers alone (`export_integers`)."""

from dataclasses import replace

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.nodes import Conv, Convolution, ConvTranspose, Layer, Linear, Part
from oaq_repro.integer.graph.windows import Window
from oaq_repro.integer.onnx import export_integers as integers
from oaq_repro.integer.onnx.writer import Writer


def conv(node: Conv, to: Writer) -> None:
    """Append a convolution and what quantizes its result."""
    if node.requantization == "float32":
        _convolution(node, to, node.window, _dequantized_operands(node, to), node.name)
    else:
        weight = to.constant(node, "weight", integers.unsigned(node.weight), np.uint8)
        integers.convolution(node, to, node.window, weight, node.name)


def conv_transpose(node: ConvTranspose, to: Writer) -> None:
    """A convolution for each part, with its taps of the weights, and their pixels put in place, rows before columns.

    ONNX Runtime has no integer kernel of ConvTranspose: between DequantizeLinear and QuantizeLinear it runs in float.
    """
    sizes, real = to.shapes[node.name][1:], node.requantization == "float32"
    operands = [to.dequantized(node, 0), _dequantized_bias(node, to)] if real else []
    kernel = node.weight if real else integers.unsigned(node.weight)
    weight = to.constant(node, "weight", kernel, kernel.dtype)
    columns: dict[int, list[tuple[Part, str]]] = {}
    for at, part in enumerate(node.parts):
        if part.first[0] < sizes[0] and part.first[1] < sizes[1]:
            taps, output = _taps(node, part, to, weight, f"part_{at}"), to.part(node, f"part_{at}")
            window = replace(part.window, padding=part.padding)
            if real:
                taps = _dequantized_weight(node, to, taps, f"part_{at}_weight")
                codes = _convolution(node, to, window, [operands[0], taps, operands[1]], output)
            else:
                codes = integers.convolution(node, to, window, taps, output)
            columns.setdefault(part.first[1], []).append((part, codes))
    joined = []
    for first, parts in columns.items():
        joined.append((parts[0][0], _interleaved(node, to, parts, 0, to.part(node, f"column_{first}"))))
    _interleaved(node, to, joined, 1, node.name)


def _taps(node: ConvTranspose, part: Part, to: Writer, weight: str, name: str) -> str:
    """Codes of the weights of a part."""
    if not part.rows or not part.columns:
        zeros = node.part_weight(part).transpose(0, 3, 1, 2)
        zeros = zeros if node.requantization == "float32" else integers.unsigned(zeros)
        return to.constant(node, f"{name}_weight", zeros, zeros.dtype)
    steps = [
        taps[1] - taps[0] if len(taps) > 1 else -k for taps, k in zip(part[1:3], node.weight.shape[2:], strict=True)
    ]
    ends = [-size - 1 for size in node.weight.shape[2:]]
    numbers = ([part.rows[0], part.columns[0]], ends, [2, 3], steps)
    inputs = [to.constant(node, f"{name}_{at}", each, np.int64) for at, each in enumerate(numbers)]
    return to.add("Slice", [weight, *inputs], to.part(node, f"{name}_taps"))


def _interleaved(node: ConvTranspose, to: Writer, parts: list[tuple[Part, str]], axis: int, output: str) -> str:
    """The rows (axis 0) or columns of the parts in their places."""
    size, before = to.shapes[node.inputs[0]][1 + axis], 0
    places = np.empty(to.shapes[node.name][1 + axis], np.int64)
    for part, _ in parts:
        taken = places[part.first[axis] :: part.step[axis]]
        skipped = max(-part.window.padding[axis], 0)
        taken[:] = before + skipped + np.arange(len(taken))
        before += replace(part.window, padding=part.padding).counts((size, size))[axis]
    whole = parts[0][1]
    if len(parts) > 1:
        whole = to.add("Concat", [codes for _, codes in parts], f"{output}{to.slash}parts", axis=2 + axis)
    indices = to.constant(node, f"{output.removeprefix(node.name)}places_{axis}", places, np.int64)
    return to.add("Gather", [whole, indices], output, axis=2 + axis)


def linear(node: Linear, to: Writer) -> None:
    """Append a matrix product and what quantizes its result."""
    if node.requantization != "float32":
        integers.linear(node, to)
        return
    real = to.add("Gemm", _dequantized_operands(node, to), to.part(node, "real"), transB=1)
    to.quantized(node, real, node.output, node.name)


def _convolution(node: Convolution, to: Writer, window: Window, operands: list[str], output: str) -> str:
    real = to.add(
        "Conv", operands, f"{output}{to.slash}real", kernel_shape=window.kernel, strides=window.stride,
        pads=window.padding, dilations=window.dilation, group=node.groups,
    )  # fmt: skip
    return to.quantized(node, real, node.output, output)


def _dequantized_operands(node: Layer, to: Writer) -> list[str]:
    """Dequantized input, weight and bias of a layer."""
    weight = to.constant(node, "weight", node.weight, np.int8)
    return [to.dequantized(node, 0), _dequantized_weight(node, to, weight), _dequantized_bias(node, to)]


def _dequantized_weight(node: Layer, to: Writer, weight: str, part: str = "weight") -> str:
    """Of codes [O, ...], all of them or some taps; with a zero point of its own, as ONNX Runtime replaces it."""
    scale = to.constant(node, "weight_scale", node.weight_scale, np.float32)
    zero_point = to.constant(node, f"{part}_zero_point", np.zeros(len(node.weight)), np.int8)
    return to.add("DequantizeLinear", [weight, scale, zero_point], to.part(node, f"{part}_dequantized"), axis=0)


def _dequantized_bias(node: Layer, to: Writer) -> str:
    bias_scale = to.q[node.inputs[0]].scale * node.weight_scale
    if not np.array_equal(bias_scale / node.output.scale, node.multiplier):
        expected = "scale of the input * weight_scale / scale of the output, in float32 and this order"
        raise InputError(f"graph node {node.name!r}: multiplier: found another value than {expected}")
    bias = [
        to.constant(node, "bias", node.bias, np.int32),
        to.constant(node, "bias_scale", bias_scale, np.float32),
    ]
    return to.add("DequantizeLinear", bias, to.part(node, "bias_dequantized"), axis=0)
