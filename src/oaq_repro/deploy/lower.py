"""Trained quantized network -> integer graph, node by node. The only file of this room that needs torch."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, fx

from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.quant import layers as ql
from oaq_repro.quant import modules as qm
from oaq_repro.quant.conversion.trace import tensor_inputs
from oaq_repro.quant.elementwise import QuantElementwise
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.pools import QuantAvgPool2d, QuantGlobalAvgPool, QuantMaxPool2d
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.quant.resize import QuantResize, QuantResizeNearest
from oaq_repro.quant.select import QuantSelect


def lower(model: QuantizedNetwork) -> ir.Graph:
    """Turn a calibrated network into an integer graph with the same nodes and bit-identical results.

    Constants (multipliers, biases, codes) are computed by the very functions that the simulation calls.
    Raises InputError for layers left in float and for modules in calibration mode.
    """
    if model.left_float:
        raise InputError(
            f"{', '.join(model.left_float)}: left in float by an override 'skip', which has no integer form; "
            "expected every layer quantized"
        )
    nodes: list[ir.Node] = []
    names: dict[fx.Node, str] = {}
    parameters: dict[str, ir.QParams] = {}
    input_name = ""
    outputs: tuple[str, ...] = ()
    with torch.no_grad():
        for node in model.graph.nodes:
            if node.op == "placeholder":
                input_name = names[node] = node.name
            elif node.op == "output":
                outputs = tuple(names[value] for value in tensor_inputs(node))
            else:
                module, name = model.get_submodule(str(node.target)), str(node.target)
                lowered = _lower_module(name, module, tuple(names[x] for x in tensor_inputs(node)), parameters)
                nodes.append(lowered)
                names[node] = lowered.name
                if isinstance(lowered, ir.CodeNode):
                    parameters[lowered.name] = lowered.output
    graph = ir.Graph(input_name, tuple(nodes), outputs)
    graph.validate()
    return graph


def _lower_module(
    name: str, module: torch.nn.Module, inputs: tuple[str, ...], parameters: dict[str, ir.QParams]
) -> ir.Node:
    builder = _BUILDERS.get(type(module))
    if builder is None:
        raise InputError(f"{name}: found {type(module).__name__}, which has no integer form")
    source = parameters.get(inputs[0])
    output = source if not isinstance(module, qm.QuantModule) or module.output is None else qparams(module.output)
    assert output is not None
    return builder(module, name, inputs, source, output)


def qparams(quantizer: ActivationQuantizer) -> ir.QParams:
    """The constants of an activation quantizer."""
    scale, zero_point, q_max = quantizer.parameters_of_range()
    return ir.QParams(np.float32(scale.item()), int(zero_point), int(q_max))


def _on(device: torch.device, q: ir.QParams) -> QParams:
    """The same constants, to ask modules for theirs."""
    scale = torch.tensor(q.scale, dtype=torch.float32, device=device)
    zero_point = torch.tensor(float(q.zero_point), device=device)
    return QParams(scale, zero_point, torch.tensor(float(q.q_max), device=device))


def _integers(values: Tensor, dtype: type) -> np.ndarray:
    return values.cpu().numpy().astype(dtype)


def _layer(module: ql.QuantLayer, source: ir.QParams, output: ir.QParams) -> dict:
    x = _on(module.weight.device, source)
    weight, bias, scale = module.weight_codes(x)
    _, weight_scale = module.quantized_weight(x)
    out_scale = torch.tensor(output.scale, dtype=torch.float32, device=scale.device)
    return {
        "weight": _integers(weight, np.int8),
        "bias": _integers(bias.double(), np.int32),
        "weight_scale": weight_scale.cpu().numpy().astype(np.float32),
        "multiplier": (scale / out_scale).cpu().numpy(),
        "accumulator": module.accumulator,
        "accumulator_reason": module.accumulator_reason,
        "requantization": module.taken_requantization(x)[0],
    }


def _convolution(operator: type[ir.Convolution], *more: str) -> Callable[..., ir.Node]:
    """`more`: fields of the geometry that this operator has beside those of all convolutions."""

    def build(module: ql.QuantLayer, name, inputs, source, output) -> ir.Node:
        fields = ("stride", "padding", "dilation", "groups", *more)
        geometry = {field: getattr(module.geometry, field) for field in fields}
        return operator(name, inputs, output, **geometry, **_layer(module, source, output))

    return build


def _linear(module: ql.QuantLinear, name, inputs, source, output) -> ir.Node:
    return ir.Linear(name, inputs, output, **_layer(module, source, output))


def _factor(module: QuantResize | QuantResizeNearest) -> tuple[int, int, int, int]:
    assert module.factor is not None
    rows, columns = (factor.as_integer_ratio() for factor in module.factor)
    return (*rows, *columns)


def _elementwise(module: QuantElementwise, name, inputs, source, output) -> ir.Node:
    table = module.table(_on(module.output.low.device, source))
    return ir.Elementwise(name, inputs, output, _integers(table, np.uint8))


def _plain(operator: type[ir.CodeNode], *fields: str) -> Callable[..., ir.Node]:
    """An operator whose fields are the module's."""
    return lambda module, name, inputs, source, output: operator(
        name, inputs, output, **{field: getattr(module, field) for field in fields}
    )


_WINDOW = ("kernel", "stride", "padding")
_BUILDERS: dict[type, Callable[..., ir.Node]] = {
    qm.QuantInput: _plain(ir.Quantize),
    qm.QuantOutput: lambda m, name, inputs, source, output: ir.Dequantize(name, inputs),
    ql.QuantConv2d: _convolution(ir.Conv),
    ql.QuantConvTranspose2d: _convolution(ir.ConvTranspose, "output_padding"),
    ql.QuantLinear: _linear,
    qm.QuantAdd: _plain(ir.Add, "requantization"),
    qm.QuantMultiply: _plain(ir.Multiply, "requantization"),
    qm.QuantConcat: _plain(ir.Concat),
    qm.QuantRequantize: _plain(ir.Requantize),
    QuantElementwise: _elementwise,
    QuantSelect: lambda m, name, inputs, source, output: ir.Select(
        name, inputs, output, _integers(m.channels, np.int64)
    ),
    qm.QuantPixelShuffle: _plain(ir.DepthToSpace, "block"),
    qm.QuantFlatten: _plain(ir.Flatten, "keepdims"),
    QuantMaxPool2d: _plain(ir.MaxPool, *_WINDOW, "dilation", "ceil_mode"),
    QuantAvgPool2d: _plain(ir.AvgPool, *_WINDOW, "count_include_pad", "requantization"),
    QuantGlobalAvgPool: _plain(ir.GlobalAvgPool, "keepdims", "requantization"),
    QuantResize: lambda m, name, inputs, source, output: ir.Resize(
        name, inputs, output, m.align_corners, None if m.factor is None else _factor(m), requantization=m.requantization
    ),
    QuantResizeNearest: lambda m, name, inputs, source, output: ir.ResizeNearest(
        name, inputs, output, factor=_factor(m), rule=m.rule
    ),
}
