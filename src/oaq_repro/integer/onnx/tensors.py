"""Constant tensors of ONNX files as arrays, none larger than the file that it comes from. Format: onnx.proto."""

from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from oaq_repro.errors import InputError
from oaq_repro.integer.onnx.external import external_bytes, is_external

LARGEST_RANK = 8
DTYPES: dict[int, Any] = {
    TensorProto.FLOAT: np.float32, TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_,
}  # fmt: skip
IMPORTED = DTYPES.keys()
CODE_BITS: dict[int, int] = {
    TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.UINT4: 4, TensorProto.INT4: 4, TensorProto.INT32: 32,
}  # fmt: skip
"""The data types that quantized values have, and their widths."""
_BITS = CODE_BITS | {
    TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16, TensorProto.DOUBLE: 64,
    TensorProto.INT64: 64, TensorProto.BOOL: 8,
}  # fmt: skip
READABLE = _BITS.keys()
_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
}  # others: int32_data


def type_name(data_type: int) -> str:
    """Name of an ONNX data type, as INT16."""
    try:
        return TensorProto.DataType.Name(data_type)
    except ValueError:
        return f"of number {data_type}"


def tensor_bytes(name: str, tensor: TensorProto) -> int:
    """Bytes that a tensor's values take, by its shape; InputError where that is no shape, or of no type known here."""
    shape = tuple(tensor.dims)
    if tensor.data_type not in READABLE:
        raise _wrong_type(name, tensor, READABLE)
    if len(shape) > LARGEST_RANK or any(size < 0 for size in shape):
        expected = f"expected at most {LARGEST_RANK} sizes of at least 0"
        raise InputError(f"tensor {name!r}: found the shape {list(shape)}, {expected}")
    return (prod(shape) * _BITS[tensor.data_type] + 7) // 8


def array(name: str, tensor: TensorProto, types: Collection[int] = IMPORTED, folder: Path | None = None) -> np.ndarray:
    """The values of a constant tensor, of one of the ONNX data types `types`.

    InputError where type, shape and data do not agree, or where the data lie in another file and `folder`, the model's,
    is not given or is not where they lie.
    """

    def error(problem: str) -> InputError:
        return InputError(f"tensor {name!r}: {problem}")

    if tensor.data_type not in types:
        raise _wrong_type(name, tensor, types)
    size = tensor_bytes(name, tensor)
    if is_external(tensor):
        if folder is None:
            raise error("found data in another file, expected all data in the model")
        content = external_bytes(name, tensor, folder, size)
        tensor = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=content)
    shape, bits = tuple(tensor.dims), _BITS[tensor.data_type]
    field = _FIELDS.get(tensor.data_type, "int32_data")
    wanted = prod(shape) if bits >= 8 else size  # those of 4 bits lie two by two
    found = len(tensor.raw_data) * 8 // max(bits, 8) if tensor.raw_data else len(getattr(tensor, field))
    if found != wanted or len(tensor.raw_data) not in (0, size):
        raise error(f"found {found} values, expected {wanted} for the shape {list(shape)}")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as problem:
        raise error(f"found values that are no {type_name(tensor.data_type)} ({problem})") from problem


def _wrong_type(name: str, tensor: TensorProto, types: Collection[int]) -> InputError:
    expected = ", ".join(type_name(known) for known in types)
    return InputError(f"tensor {name!r}: found data type {type_name(tensor.data_type)}, expected {expected}")
