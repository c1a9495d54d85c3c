"""An integer graph as a quantized ONNX model that ONNX Runtime runs to the same bits as the reference on int32.

With requantization float32 that is QDQ. What is requantized by integers has no float operator between QuantizeLinear of
the image and DequantizeLinear of the results: ConvInteger and MatMulInteger, arithmetic of int32 and int64, tables
(`export_integers`). Of QDQ:

Every value is uint8; layers are DequantizeLinear -> Conv or Gemm -> QuantizeLinear, which ONNX Runtime fuses into
QLinearConv and QGemm with the reference's arithmetic; `Clip` on the codes bounds them by q_max. The other operators
are written so that ONNX Runtime cannot fuse them into kernels that round otherwise (`writer.BARRIER`, integer sums).
On x86 without VNNI, ONNX Runtime adds saturated pairs of products in QDQ (onnxruntime_session_options_config_keys.h):
equal there for layers that `audit` calls exact, or with the session option "session.x64quantprecision" = "1".
ONNX knows no accumulators: they are in the metadata, with all that `importer` needs to give the same graph back.
"""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph import file as graph_file
from oaq_repro.integer.onnx.export_operators import constant_bytes, write
from oaq_repro.integer.onnx.writer import Writer

OPSET, IR_VERSION = 13, 8  # the oldest opset with weights quantized per channel; tried on ONNX Runtime 1.17 and 1.32
METADATA_KEY, SCALES_KEY = "oaq_repro.graph", "oaq_repro.weight_scales"
LARGEST_MODEL = (1 << 31) - 1  # bytes of one protobuf message


def export_onnx(graph: Graph, input_shape: tuple[int, int, int], path: Path | str) -> Path:
    """Write the model for float32 images [N, *input_shape], N free, atomically.

    InputError: a graph that is not valid or does not fit the shape, a model beyond protobuf's 2 GiB, a full disk.
    """
    model = build_model(graph, input_shape)
    try:
        content = model.SerializeToString(deterministic=True)
    except ValueError as error:
        raise InputError(f"{path}: the model cannot be written as one ONNX file ({error}), expected < 2 GiB") from error
    return write_atomic(path, content)


def build_model(graph: Graph, input_shape: tuple[int, int, int], largest: int = LARGEST_MODEL) -> onnx.ModelProto:
    """The model as a protobuf message; the same graph and shape give the same message.

    InputError where its constants would have more than `largest` bytes.
    """
    graph.validate()
    shapes = graph.shapes(input_shape)
    needed = sum(constant_bytes(node, shapes) for node in graph.nodes)
    if needed > largest:
        raise InputError(f"graph: found {needed} bytes of constants, expected at most {largest} (one ONNX file)")
    writer = Writer(graph, shapes)
    try:
        for node in graph.nodes:
            write(node, writer)
        body = helper.make_graph(
            writer.nodes,
            "oaq_repro",
            [helper.make_tensor_value_info(graph.input_name, TensorProto.FLOAT, ["N", *shapes[graph.input_name]])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shapes[name]]) for name in graph.outputs],
            [numpy_helper.from_array(array, name) for name, array in writer.constants.items()],
        )
    except UnicodeEncodeError as error:
        raise InputError(f"graph: found the name {error.object!r}, expected text that UTF-8 can encode") from error
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="oaq_repro")
    header, _ = graph_file.to_header(graph.input_name, graph.nodes, graph.outputs)
    # where no node dequantizes weights, their scales are in no constant
    scales = {node.name: node.weight_scale.tolist() for node in graph.layers() if node.requantization != "float32"}
    more = {SCALES_KEY: json.dumps(scales)} if scales else {}
    helper.set_model_props(model, {METADATA_KEY: json.dumps(header), **more})
    return model
