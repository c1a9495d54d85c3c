"""Graph files: an uncompressed .npz of the constants, with the rest as JSON under the key `header`. No pickles.

Weights of at most 4 bits lie two a byte (`nibbles`); the header then says under `packed` which, and their shapes. Files
may come from anywhere: whatever is wrong with one ends in an InputError.
"""

import json
import zipfile
import zlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.files import open_regular, write_atomic
from oaq_repro.integer.graph import nibbles
from oaq_repro.integer.graph.nodes import OPERATORS, Node, QParams
from oaq_repro.integer.graph.npy import read_array

FORMAT, PACKED = "oaq_repro integer graph 1", "oaq_repro integer graph 2"
"""Of headers; the second of files with arrays that are packed, so that nothing takes them for what they are not."""


def array_fields(operator: type[Node]) -> tuple[str, ...]:
    """Names of an operator's fields that are arrays."""
    return tuple(field.name for field in fields(operator) if field.type is np.ndarray)


def to_header(
    input_name: str, nodes: tuple[Node, ...], outputs: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A graph's parts as (JSON object, arrays by the name `<index of the node>.<field>`)."""
    arrays: dict[str, np.ndarray] = {}
    listed = []
    for index, node in enumerate(nodes):
        entry: dict[str, Any] = {"op": type(node).__name__}
        in_arrays = array_fields(type(node))
        for field in fields(node):
            value = getattr(node, field.name)
            if field.name in in_arrays:
                arrays[f"{index}.{field.name}"] = value
            else:
                entry[field.name] = _to_json(value)
        listed.append(entry)
    return {"format": FORMAT, "input_name": input_name, "nodes": listed, "outputs": list(outputs)}, arrays


def from_header(content: Any, arrays: dict[str, np.ndarray]) -> tuple[str, tuple[Node, ...], tuple[str, ...]]:
    """What `to_header` made of (input_name, nodes, outputs), not yet validated; InputError names what is wrong.

    Takes the arrays it uses out of `arrays`.
    """
    if not isinstance(content, dict) or set(content) != {"format", "input_name", "nodes", "outputs"}:
        raise InputError("header: expected the keys format, input_name, nodes, outputs")
    if content["format"] != FORMAT:
        raise InputError(f"header: format: found {content['format']!r}, expected {FORMAT!r}")
    if not isinstance(content["nodes"], list) or not isinstance(content["outputs"], list):
        raise InputError("header: nodes, outputs: expected lists")
    nodes = tuple(_node(index, entry, arrays) for index, entry in enumerate(content["nodes"]))
    return content["input_name"], nodes, tuple(content["outputs"])


def save(path: Path | str, input_name: str, nodes: tuple[Node, ...], outputs: tuple[str, ...]) -> Path:
    """Write a graph's parts atomically."""
    header, arrays = to_header(input_name, nodes, outputs)
    packed = {name: list(values.shape) for name, values in arrays.items() if nibbles.fits(values)}
    if packed:
        header |= {"format": PACKED, "packed": packed}
        arrays |= {name: nibbles.pack(arrays[name]) for name in packed}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    return write_atomic(path, write)


def load(path: Path | str) -> tuple[str, tuple[Node, ...], tuple[str, ...]]:
    """Read (input_name, nodes, outputs), not yet validated; InputError names the file."""
    arrays = _read_arrays(path)
    try:
        if "header" not in arrays:
            raise InputError("found no header, expected a graph that Graph.save wrote")
        header = arrays.pop("header")
        if header.dtype != np.uint8 or header.ndim != 1:
            raise InputError("header: expected JSON as bytes")
        result = from_header(_unpacked(json.loads(header.tobytes()), arrays), arrays)
        if arrays:
            raise InputError(f"found the array {min(arrays)!r} that belongs to no node")
        return result
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: header: found text that is not JSON ({error})") from error


def _unpacked(content: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The header of a file without packed arrays; those that are are unpacked in `arrays`."""
    if not isinstance(content, dict) or content.get("format") != PACKED:
        return content
    packed = content.pop("packed", None)
    if not isinstance(packed, dict):
        raise InputError("header: packed: expected the shapes of arrays by their names")
    for name, shape in packed.items():
        if name not in arrays:
            raise InputError(f"{name}: found no array, expected the one that the header says is packed")
        try:
            arrays[name] = nibbles.unpack(arrays[name], shape)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
    return content | {"format": FORMAT}


def _read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    try:
        with open_regular(path, "an integer graph (.npz)") as file, zipfile.ZipFile(file) as archive:
            # Stored members are no larger than the file: nothing can unfold into more memory than that.
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise InputError("found compressed members, expected an uncompressed .npz that Graph.save wrote")
            if len({member.filename for member in members}) != len(members):
                raise InputError("found two members of one name, expected an .npz that Graph.save wrote")
            for member in members:
                if not member.filename.endswith(".npy"):
                    raise InputError(f"found the member {member.filename!r} that is no array")
                with archive.open(member) as content:
                    arrays[member.filename.removesuffix(".npy")] = read_array(content, member.file_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError,
            SyntaxError, MemoryError, OverflowError, TypeError, RecursionError) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: found a damaged or foreign file ({reason}), expected a graph (.npz)") from error
    return arrays


def _to_json(value: Any) -> Any:
    if isinstance(value, QParams):
        return {"scale": float(value.scale), "zero_point": value.zero_point, "q_max": value.q_max}
    if isinstance(value, Accumulator):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _node(index: int, entry: Any, arrays: dict[str, np.ndarray]) -> Node:
    if not isinstance(entry, dict) or not isinstance(entry.get("op"), str):
        raise InputError(f"node {index}: expected an object with the key op")
    label = f"node {index} ({entry.get('name')!r})"
    operator = OPERATORS.get(entry["op"])
    if operator is None:
        raise InputError(f"{label}: op: found {entry['op']!r}, expected one of {', '.join(OPERATORS)}")
    known = {field.name: field for field in fields(operator)}
    values = {key: _from_json(label, key, value) for key, value in entry.items() if key != "op"}
    for key in array_fields(operator):
        if f"{index}.{key}" not in arrays:
            raise InputError(f"{label}: {key}: found no array {index}.{key}")
        values[key] = arrays.pop(f"{index}.{key}")
    for key in values:
        if key not in known:
            raise InputError(f"{label}: found the field {key!r}, expected {', '.join(known)}")
    for key, field in known.items():
        if key not in values and field.default is MISSING:
            raise InputError(f"{label}: {key}: missing")
    return operator(**values)


def _from_json(label: str, key: str, value: Any) -> Any:
    if key == "output":
        if not isinstance(value, dict) or set(value) != {"scale", "zero_point", "q_max"}:
            raise InputError(f"{label}: output: found {value!r}, expected scale, zero_point, q_max")
        if isinstance(value["scale"], bool) or not isinstance(value["scale"], int | float):
            raise InputError(f"{label}: output.scale: found {value['scale']!r}, expected a number")
        with np.errstate(over="ignore"):
            try:
                return QParams(np.float32(value["scale"]), value["zero_point"], value["q_max"])
            except OverflowError as error:
                raise InputError(f"{label}: output.scale: found {value['scale']!r}, expected a float32") from error
    if key == "accumulator":
        try:
            return Accumulator.parse(value)
        except (InputError, TypeError) as error:
            raise InputError(f"{label}: {error}") from error
    return tuple(value) if isinstance(value, list) else value
