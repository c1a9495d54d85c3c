"""Quantized ONNX models as integer graphs: those that `exporter` wrote, and those of other tools.

An exported model gives back the very graph it was made from, as long as nobody has changed its nodes. Other models are
read operator by operator (`import_operators`): QDQ or QOperator form, uint8 or int8 activations, and weights that int8
holds around the zero point 0; their layers have 32-bit accumulators. Files may come from anywhere: whatever is wrong
with one ends in an InputError.
"""

import json
from pathlib import Path

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph import file as graph_file
from oaq_repro.integer.graph import nodes as ir
from oaq_repro.integer.onnx.export_integers import signed
from oaq_repro.integer.onnx.exporter import METADATA_KEY, SCALES_KEY, build_model
from oaq_repro.integer.onnx.import_operators import CONVERTERS
from oaq_repro.integer.onnx.meanings import Codes, expect_quantized
from oaq_repro.integer.onnx.reader import OnnxModel, read_model
from oaq_repro.integer.onnx.schemas import check_all_read, check_declared, check_opset, check_quantized
from oaq_repro.integer.onnx.tensors import array
from oaq_repro.integer.onnx.values import Values
from oaq_repro.integer.onnx.writer import separator

LARGEST_MODEL = 10_000  # nodes


def import_onnx(path: Path | str) -> Graph:
    """The validated graph of a model; InputError names the file, the node, and what is wrong or not supported."""
    return import_with_shape(path)[0]


def import_with_shape(path: Path | str) -> tuple[Graph, tuple[int, int, int] | None]:
    """As `import_onnx`, and the shape [C, H, W] of the model's images, None where it does not declare it."""
    try:
        model = read_model(path)
        graph = _exported(model)
        if graph is None:
            graph = _foreign(model)
        graph.validate()
        if model.input_shape is not None:
            graph.shapes(model.input_shape)
        return graph, model.input_shape
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found text that is not UTF-8, expected an ONNX model") from error


def _exported(model: OnnxModel) -> Graph | None:
    """The graph that the metadata describe, if exporting it gives this very model; None otherwise."""
    if METADATA_KEY not in model.metadata or model.input_shape is None:
        return None
    try:
        content = json.loads(model.metadata[METADATA_KEY])
        graph = Graph(*graph_file.from_header(content, _arrays(model, content)))
        again = build_model(graph, model.input_shape, model.proto.ByteSize())
        # The graph was made of the metadata, in whatever words: what is left to compare are nodes and constants.
        del again.metadata_props[:]
        again.metadata_props.extend(model.proto.metadata_props)
        same = again == model.proto
    except (InputError, ValueError, RecursionError, TypeError, KeyError, AttributeError, OverflowError):
        return None  # metadata that somebody has changed: the nodes say what the model is
    return graph if same else None


def _arrays(model: OnnxModel, content: dict) -> dict[str, np.ndarray]:
    """Constants of the nodes by the names that `graph_file` gives them."""
    nodes = content["nodes"]
    by_name = {node["name"]: node for node in nodes}
    scales = json.loads(model.metadata.get(SCALES_KEY, "{}"))
    slash = separator([content["input_name"], *by_name])
    arrays: dict[str, np.ndarray] = {}
    for index, node in enumerate(nodes):
        operator = ir.OPERATORS[node["op"]]
        for field in graph_file.array_fields(operator):
            name = f"{node['name']}{slash}{field}"
            if name in model.tensors:
                found = array(name, model.tensors[name])
                integers = field == "weight" and found.dtype == np.uint8
                arrays[f"{index}.{field}"] = signed(found) if integers else found
        if issubclass(operator, ir.Layer):  # its multipliers are not in the model
            arrays[f"{index}.bias"] = arrays[f"{index}.bias"].reshape(-1)
            if node["name"] in scales:
                arrays[f"{index}.weight_scale"] = np.asarray(scales[node["name"]], np.float32)
            source, output = (np.float32(each["output"]["scale"]) for each in (by_name[node["inputs"][0]], node))
            arrays[f"{index}.multiplier"] = source * arrays[f"{index}.weight_scale"] / output
    return arrays


def _foreign(model: OnnxModel) -> Graph:
    check_opset(model.opset)
    if len(model.nodes) > LARGEST_MODEL:
        raise InputError(f"found {len(model.nodes)} nodes, expected at most {LARGEST_MODEL}")
    check_quantized(model.nodes)
    values = Values(model)
    for node in model.nodes:
        converter = CONVERTERS.get(node.op)
        if converter is None:
            expected = ", ".join(sorted(CONVERTERS))
            raise node.error(f"no integer form is known for this operator, expected one of {expected}")
        check_declared(node, model.opset)
        converter(values, node)
        check_all_read(node, model.opset)
    for name in model.outputs:
        real = values.real.get(name)
        if real is None:
            found = "codes" if isinstance(values.codes.get(name), Codes) else "no quantized value"
            raise InputError(f"output {name!r}: found {found}, expected the result of a DequantizeLinear")
        expect_quantized(real)
        if not real.is_plain():
            raise InputError(f"output {name!r}: found a clamp in float, expected the result of a DequantizeLinear")
        values.add(ir.Dequantize(name, (real.source,)))  # type: ignore[arg-type]
    return Graph(model.input_name, tuple(values.nodes.values()), model.outputs)
