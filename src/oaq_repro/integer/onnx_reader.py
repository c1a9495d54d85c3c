"""ONNX files as plain values: nodes in order, constants as arrays. Files may come from anywhere.

Whatever is wrong with a file ends in an InputError. Nothing outside the file is read, and no array is made that is
larger than the file. Format: onnx.proto and Operators.md of ONNX.
"""

import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, numpy_helper

from oaq_repro.errors import InputError

OLDEST_OPSET = 11
LARGEST_FILE = (1 << 31) - 1  # bytes; protobuf's own limit
LARGEST_RANK = 8
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32, TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32, TensorProto.INT64: np.int64,
}  # fmt: skip
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.UINT8: "int32_data", TensorProto.INT8: "int32_data",
    TensorProto.INT32: "int32_data", TensorProto.INT64: "int64_data",
}  # fmt: skip
_KINDS = {
    int: (AttributeProto.INT, "i"), float: (AttributeProto.FLOAT, "f"), str: (AttributeProto.STRING, "s"),
    tuple: (AttributeProto.INTS, "ints"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node: inputs that are left out at the end are missing, those left out before are ''."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, AttributeProto]

    @property
    def label(self) -> str:
        """How messages call the node."""
        return f"node {self.name or self.outputs[0]!r} ({self.op})"

    def error(self, problem: str) -> InputError:
        """An InputError about this node."""
        return InputError(f"{self.label}: {problem}")

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the type of `default` (int, float, str, tuple of int), or `default` where it is missing."""
        found = self.attributes.get(name)
        if found is None:
            return default
        kind, field = _KINDS[type(default)]
        if found.type != kind:
            raise self.error(f"{name}: found another type than {type(default).__name__}")
        value = getattr(found, field)
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return type(default)(value)

    def expect(self, **values: Any) -> None:
        """Attributes that have to have one value (or be missing, where that is the operator's default)."""
        for name, value in values.items():
            found = self.attribute(name, value)
            if found != value:
                raise self.error(f"{name}: found {found!r}, expected {value!r}")

    def input(self, at: int) -> str:
        """Name of an input, '' where it is left out."""
        return self.inputs[at] if at < len(self.inputs) else ""


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model: one float32 input [N, C, H, W], `input_shape` (C, H, W) or None where it is not declared in numbers."""

    proto: onnx.ModelProto
    input_name: str
    input_shape: tuple[int, int, int] | None
    batch: int | None
    nodes: tuple[OnnxNode, ...]
    tensors: dict[str, TensorProto]
    outputs: tuple[str, ...]
    metadata: dict[str, str]


def read_model(path: Path | str) -> OnnxModel:
    """Read a file; InputError where it is no ONNX model with one image as input (the caller names the file)."""
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
                raise InputError("found no plain file, or more than 2 GiB, expected an ONNX model in one file")
            content = file.read(status.st_size)
    except FileNotFoundError as error:
        raise InputError("found no such file, expected an ONNX model") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"found a damaged or foreign file ({error}), expected an ONNX model") from error
    if not proto.graph.node or not proto.opset_import:
        raise InputError("found no nodes or no opset, expected an ONNX model")
    return _model(proto)


def array(name: str, tensor: TensorProto) -> np.ndarray:
    """The values of a constant tensor; InputError where type, shape and data do not agree or lie in another file."""

    def error(problem: str) -> InputError:
        return InputError(f"tensor {name!r}: {problem}")

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise error("found data in another file, expected all data in the model")
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        expected = ", ".join(np.dtype(known).name for known in DTYPES.values())
        raise error(f"found ONNX data type {tensor.data_type}, expected {expected}")
    shape = tuple(tensor.dims)
    if len(shape) > LARGEST_RANK or any(size < 0 for size in shape):
        raise error(f"found the shape {list(shape)}, expected at most {LARGEST_RANK} sizes of at least 0")
    field = _FIELDS[tensor.data_type]
    found = len(tensor.raw_data) // np.dtype(dtype).itemsize if tensor.raw_data else len(getattr(tensor, field))
    if found != prod(shape) or len(tensor.raw_data) % np.dtype(dtype).itemsize:
        raise error(f"found {found} values, expected {prod(shape)} for the shape {list(shape)}")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as problem:
        raise error(f"found values that are no {np.dtype(dtype).name} ({problem})") from problem


def _model(proto: onnx.ModelProto) -> OnnxModel:
    graph = proto.graph
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] < OLDEST_OPSET:
        raise InputError(f"opset: found {versions}, expected one version of at least {OLDEST_OPSET}")
    if graph.sparse_initializer:
        raise InputError("found sparse initializers, expected dense ones")
    tensors: dict[str, TensorProto] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in tensors:
            raise InputError(f"initializer {tensor.name!r}: found no name, or twice, expected unique names")
        tensors[tensor.name] = tensor
    inputs = [value for value in graph.input if value.name not in tensors]
    if len(inputs) != 1:
        raise InputError(f"inputs: found {[value.name for value in inputs]}, expected one image")
    value = inputs[0]
    kind = value.type.tensor_type
    if not value.name or value.type.WhichOneof("value") != "tensor_type" or kind.elem_type != TensorProto.FLOAT:
        raise InputError(f"input {value.name!r}: expected a float32 tensor with a name")
    if not kind.HasField("shape") or len(kind.shape.dim) != 4:
        raise InputError(f"input {value.name!r}: expected an image of shape [N, C, H, W]")
    batch, *sizes = (dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    if any(size is not None and size < 1 for size in (batch, *sizes)):
        raise InputError(f"input {value.name!r}: found the shape {[batch, *sizes]}, expected sizes of at least 1")
    known = None if None in sizes else (sizes[0], sizes[1], sizes[2])
    nodes = tuple(_node(node) for node in graph.node)
    taken = {value.name, *tensors}
    for node in nodes:
        for name in node.outputs:
            if name and name in taken:
                raise node.error(f"found the output {name!r} twice, expected unique names")
            taken.add(name)
    outputs = tuple(output.name for output in graph.output)
    if not outputs or len(set(outputs)) != len(outputs):
        raise InputError(f"outputs: found {list(outputs)}, expected at least one, and unique names")
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    return OnnxModel(proto, value.name, known, batch, nodes, tensors, outputs, metadata)  # type: ignore


def _node(proto: onnx.NodeProto) -> OnnxNode:
    if not proto.output or not proto.output[0]:
        raise InputError(f"node {proto.name!r} ({proto.op_type}): found no output")
    op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    return OnnxNode(op, proto.name, tuple(proto.input), tuple(proto.output), attributes)
