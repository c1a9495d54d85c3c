"""Arrays from .npy files of any origin: nothing is allocated before the header has been compared with the file."""

import math
from pathlib import Path
from typing import IO

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.files import open_regular
from oaq_repro.integer.graph.arithmetic import Array

READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_array(path: Path | str, expected: str) -> Array:
    """The array of a .npy file; InputError names the file and what was `expected`."""
    try:
        with open_regular(path, expected) as file:
            size = file.seek(0, 2)
            file.seek(0)
            return read_array(file, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: found no readable array ({error}), expected {expected}") from error


def read_array(file: IO[bytes], size: int) -> Array:
    """The array of an .npy file (or member of an .npz) of `size` bytes.

    ValueError for another format, Python objects, and a header that promises another number of values than there are.
    """
    version = np.lib.format.read_magic(file)
    if version not in READ_HEADER:
        raise ValueError(f"version {version} of the .npy format")
    try:
        shape, fortran, dtype = READ_HEADER[version](file)
    except Exception as error:  # numpy hands on whatever its parsers of literals and types raise
        raise ValueError(f"a damaged header: {type(error).__name__}") from error
    if dtype.hasobject:
        raise ValueError("Python objects, which are never read")
    needed, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed != left or min(shape, default=0) < 0:
        raise ValueError(f"a header for {list(shape)} of {dtype}, and {left} bytes")
    values = np.empty(math.prod(shape), dtype)
    if needed and file.readinto(values.data.cast("B")) != needed:  # type: ignore[attr-defined]
        raise ValueError("fewer bytes than the file should have")
    return values.reshape(shape, order="F" if fortran else "C")
