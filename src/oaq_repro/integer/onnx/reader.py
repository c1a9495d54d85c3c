"""ONNX files as plain values: nodes in order, constants as arrays. Files may come from anywhere.

Whatever is wrong with a file ends in an InputError. Nothing outside the model's folder is read (`external`), and
no array is made that is larger than the file it comes from. Format: onnx.proto and Operators.md of ONNX.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, TensorProto

from oaq_repro.errors import InputError
from oaq_repro.files import open_regular
from oaq_repro.integer.onnx.external import external_bytes, is_external
from oaq_repro.integer.onnx.tensors import tensor_bytes

OLDEST_OPSET = 11
LARGEST_FILE = (1 << 31) - 1  # bytes; protobuf's own limit
MICROSOFT = "com.microsoft."  # the domain of ONNX Runtime's own operators, as `OnnxNode.op` begins
_KINDS = {
    int: (AttributeProto.INT, "i"), float: (AttributeProto.FLOAT, "f"), str: (AttributeProto.STRING, "s"),
    tuple: (AttributeProto.INTS, "ints"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One node: inputs that are left out at the end are missing, those left out before are ''.

    `read` and `read_inputs` keep what has been asked for, attributes by name and inputs by index: what nobody has read
    at the end has to be what ONNX does without it (`schemas.check_all_read`).
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, AttributeProto]
    read: set[str] = field(default_factory=set)
    read_inputs: set[int] = field(default_factory=set)
    part_of: str = ""

    @property
    def label(self) -> str:
        """How messages call the node."""
        return f"node {self.name or self.outputs[0]!r} ({self.part_of or self.op})"

    def error(self, problem: str) -> InputError:
        """An InputError about this node."""
        return InputError(f"{self.label}: {problem}")

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the type of `default` (int, float, str, tuple of int), or `default` where it is missing."""
        self.read.add(name)
        found = self.attributes.get(name)
        if found is None:
            return default
        kind, content = _KINDS[type(default)]
        if found.type != kind:
            raise self.error(f"{name}: found another type than {type(default).__name__}")
        value = getattr(found, content)
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return type(default)(value)

    def flag(self, name: str, default: bool) -> bool:
        """An attribute that is 0 or 1."""
        value = self.attribute(name, int(default))
        if value not in (0, 1):
            raise self.error(f"{name}: found {value}, expected 0 or 1")
        return bool(value)

    def expect(self, **values: Any) -> None:
        """Attributes that have to have one value (or be missing, where that is the operator's default)."""
        for name, value in values.items():
            found = self.attribute(name, value)
            if found != value:
                raise self.error(f"{name}: found {found!r}, expected {value!r}")

    def input(self, at: int) -> str:
        """Name of an input, '' where it is left out."""
        self.read_inputs.add(at)
        return self.inputs[at] if at < len(self.inputs) else ""

    def all_inputs(self) -> tuple[str, ...]:
        """The names of all inputs, for operators that take any number."""
        return tuple(self.input(at) for at in range(len(self.inputs)))

    def part(self, op: str, inputs: Sequence[str], output: str) -> "OnnxNode":
        """One of the operators that this node is made of; what it reads of the attributes, this node has read."""
        name = self.name or self.outputs[0]
        return OnnxNode(op, name, tuple(inputs), (output,), self.attributes, self.read, part_of=self.op)


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model: one float32 input [N, C, H, W], `input_shape` (C, H, W) or None where it is not declared in numbers."""

    proto: onnx.ModelProto
    opset: int
    input_name: str
    input_shape: tuple[int, int, int] | None
    batch: int | None
    nodes: tuple[OnnxNode, ...]
    tensors: dict[str, TensorProto]
    outputs: tuple[str, ...]
    metadata: dict[str, str]


def plain(op: str) -> str:
    """Name of an operator without ONNX Runtime's domain: its QuantizeLinear and DequantizeLinear are ONNX's."""
    return op.removeprefix(MICROSOFT)


def read_model(path: Path | str) -> OnnxModel:
    """Read a file; InputError where it is no ONNX model with one image as input (the caller names the file)."""
    proto = read_proto(path)
    left = LARGEST_FILE
    for tensor in proto.graph.initializer:
        if is_external(tensor):
            size = tensor_bytes(tensor.name, tensor)
            left -= size
            if left < 0:
                raise InputError(f"found more than {LARGEST_FILE} bytes of tensors in other files, expected less")
            tensor.raw_data = external_bytes(tensor.name, tensor, Path(path).parent, size)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return _model(proto)


def read_proto(path: Path | str) -> onnx.ModelProto:
    """The message of a file, tensors in other files left there; InputError where it is no ONNX model."""
    with open_regular(path, "an ONNX model") as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            raise InputError("found more than 2 GiB, expected an ONNX model in one file")
        content = file.read(size)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"found a damaged or foreign file ({error}), expected an ONNX model") from error
    if not proto.graph.node or not proto.opset_import:
        raise InputError("found no nodes or no opset, expected an ONNX model")
    if not _is_text(proto):
        raise InputError("found text that is not UTF-8, expected an ONNX model")
    return proto


def _is_text(message: Message) -> bool:
    """Whether every string is one; protobuf gives others as bytes, or raises UnicodeDecodeError."""
    if isinstance(message, TensorProto):  # without a copy of its values
        texts = [message.name, *(text for entry in message.external_data for text in (entry.key, entry.value))]
        return all(isinstance(text, str) for text in texts)
    for declared, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes | Message) else value
        if declared.type == FieldDescriptor.TYPE_STRING and not all(isinstance(text, str) for text in values):
            return False
        if declared.type == FieldDescriptor.TYPE_MESSAGE and not all(map(_is_text, values)):
            return False
    return True


def opset_of(proto: onnx.ModelProto, oldest: int) -> int:
    """The version of ONNX's own operators; InputError where there is none, or an older one than `oldest`."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] < oldest:
        raise InputError(f"opset: found {versions}, expected one version of at least {oldest}")
    return versions[0]


def _model(proto: onnx.ModelProto) -> OnnxModel:
    graph = proto.graph
    opset = opset_of(proto, OLDEST_OPSET)
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
    return OnnxModel(proto, opset, value.name, known, batch, nodes, tensors, outputs, metadata)  # type: ignore


def _node(proto: onnx.NodeProto) -> OnnxNode:
    if not proto.output or not proto.output[0]:
        raise InputError(f"node {proto.name!r} ({proto.op_type}): found no output")
    return node_of(proto)


def node_of(proto: onnx.NodeProto) -> OnnxNode:
    """A node as plain values, unchecked."""
    op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
    attributes = {attribute.name: attribute for attribute in proto.attribute}
    node = OnnxNode(op, proto.name, tuple(proto.input), tuple(proto.output), attributes)
    if len(attributes) < len(proto.attribute):
        raise node.error("found an attribute twice, expected each once")
    return node
