"""Nothing of a node goes unread: what a converter has not asked for has to be what ONNX does without it.

ONNX declares the attributes and the inputs of its operators with their defaults, per opset (`onnx.defs`). So a
converter that forgets an attribute, or a new attribute in a new opset, is an InputError and never another result.
Operators of com.microsoft declare nothing here: all that they have must be read.
"""

from collections.abc import Sequence
from typing import Any

from onnx import AttributeProto, defs, helper

from oaq_repro.errors import InputError
from oaq_repro.integer.onnx.reader import MICROSOFT, OnnxNode, plain

NEWEST_OPSET = min(23, defs.onnx_opset_version())  # up to 23 the operators have been compared with ONNX Runtime
DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"}


def check_opset(opset: int) -> None:
    """InputError beyond the newest opset whose operators are known here."""
    if opset > NEWEST_OPSET:
        raise InputError(f"opset: found {opset}, expected at most {NEWEST_OPSET} (export the model with an older one)")


def check_quantized(nodes: Sequence[OnnxNode]) -> None:
    """InputError for a model whose activations have no constant scales: a float one, or one quantized dynamically."""
    operators = {plain(node.op) for node in nodes}
    dynamic = sorted(operators & DYNAMIC)
    if not dynamic and any(op == "QuantizeLinear" or op.startswith("QLinear") or op == "QGemm" for op in operators):
        return
    found = f"found {dynamic[0]}: scales are made anew for each image" if dynamic else "found no QuantizeLinear"
    raise InputError(
        f"{found}; this is not a statically quantized model. Expected scales from calibration, as "
        "onnxruntime.quantization.quantize_static makes them from a float model"
    )


def check_declared(node: OnnxNode, opset: int) -> None:
    """Before conversion: an operator of ONNX has the attributes, and as many inputs and outputs, as ONNX says."""
    if node.op.startswith(MICROSOFT):
        return
    schema = _schema(node, opset)
    for name, found in node.attributes.items():
        if name not in schema.attributes:
            raise node.error(f"{name}: found an attribute that the operator does not have in opset {opset}")
        if found.ref_attr_name:
            raise node.error(f"{name}: found a reference to another attribute, expected a value")
    for name, declared in schema.attributes.items():
        if declared.required and name not in node.attributes:
            raise node.error(f"{name}: missing, expected a value")
    for what, count, least, most in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            raise node.error(f"{what}: found {count}, expected {least if least == most else f'{least} to {most}'}")


def check_all_read(node: OnnxNode, opset: int) -> None:
    """After conversion: attributes that were not read have their defaults, inputs that were not read are left out."""
    schema = None if node.op.startswith(MICROSOFT) else _schema(node, opset)
    for name in sorted(node.attributes.keys() - node.read):
        default = None
        if schema is not None and schema.attributes[name].default_value.name:
            default = _value(schema.attributes[name].default_value)
        if default is None or _value(node.attributes[name]) != default:
            expected = "it to be left out" if default is None else f"{default[1]!r}"
            raise node.error(f"{name}: found a value that is not supported, expected {expected}")
    for at, name in enumerate(node.inputs):
        if name and at not in node.read_inputs:
            raise node.error(f"input {name!r}: found an input number {at + 1} that is not supported")


def _schema(node: OnnxNode, opset: int) -> defs.OpSchema:
    try:
        return defs.get_schema(node.op, opset, "")
    except defs.SchemaError as error:
        raise node.error(f"found an operator that opset {opset} does not have") from error


def _value(attribute: AttributeProto) -> tuple[int, Any]:
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:  # a type that ONNX does not know
        return attribute.type, None
    return attribute.type, value.decode(errors="replace") if isinstance(value, bytes) else value
