"""Tensors whose values lie in a file beside the ONNX model. Models may come from anywhere: no other file is ever read.

The file has to be in the model's folder or below it, links followed. Source of the format: ExternalData.md of ONNX.
"""

import os
import re
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from oaq_repro.errors import InputError

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def is_external(tensor: TensorProto) -> bool:
    """Whether the values lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def external_bytes(name: str, tensor: TensorProto, folder: Path, expected: int) -> bytes:
    """The `expected` bytes of a tensor of a model in `folder`; InputError where they are not all there."""

    def error(problem: str) -> InputError:
        return InputError(f"tensor {name!r}: found data in another file, {problem}")

    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    offset, length = (fields.get(key, default) for key, default in (("offset", "0"), ("length", str(expected))))
    if not _NUMBER.fullmatch(offset) or not _NUMBER.fullmatch(length) or int(length) != expected:
        raise error(f"offset {offset!r} and length {length!r}, expected numbers, and {expected} bytes")
    path = _inside(folder, location)
    if path is None:
        raise error(f"{location!r}, expected a file in the folder of the model")
    try:
        # not blocking: a pipe must not stop the program
        with open(
            os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb"
        ) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size < int(offset) + expected:
                raise error(f"{location!r}, expected a file of at least {int(offset) + expected} bytes")
            file.seek(int(offset))
            content = file.read(expected)
    except OSError as problem:
        raise error(f"{location!r}, which cannot be read ({problem.strerror or problem})") from problem
    if len(content) != expected:
        raise error(f"{location!r}, which ended early")
    return content


def _inside(folder: Path, location: str) -> Path | None:
    """The file at `location`, links resolved; None where it is not in the folder."""
    parts = PurePosixPath(location).parts
    foreign = "\\" in location or "\0" in location or PureWindowsPath(location).drive != ""
    if not parts or foreign or ".." in parts or PurePosixPath(location).is_absolute():
        return None
    try:
        path, root = (folder / location).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle, before Python 3.13
        return None
    return path if path.is_relative_to(root) else None
