"""Two codes a byte for weights of at most 4 bits, in files: the first in the low half, as ONNX packs INT4.

Nothing computes on them like this: they are unpacked when a file is read.
"""

import math
from typing import Any

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array

LOW, HIGH = -8, 7
"""Of signed numbers of 4 bits."""


def fits(values: Array) -> bool:
    """Whether these are int8 codes that 4 bits hold."""
    return values.dtype == np.int8 and values.size > 0 and int(values.min()) >= LOW and int(values.max()) <= HIGH


def stored_bytes(values: Array) -> int:
    """What the values of an array take in a file."""
    return -(-values.size // 2) if fits(values) else values.nbytes


def pack(values: Array) -> Array:
    """int8 codes from -8 to 7 of any shape -> uint8, half as many, rounded up."""
    flat = values.ravel().astype(np.int8).view(np.uint8) & 15
    low, high = flat[::2], np.zeros(-(-len(flat) // 2), np.uint8)
    high[: len(flat) // 2] = flat[1::2]
    return low | high << 4


def unpack(packed: Array, shape: Any) -> Array:
    """What `pack` was given, in its shape; InputError where the shape, of any origin, is not that of these bytes."""
    sizes = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not sizes or packed.dtype != np.uint8 or packed.ndim != 1 or -(-math.prod(shape) // 2) != len(packed):
        raise InputError(f"found {packed.dtype} {list(packed.shape)} for codes of shape {shape}, expected two a byte")
    halves = np.stack([packed & 15, packed >> 4], axis=1).ravel()
    if halves[math.prod(shape) :].any():
        raise InputError(f"found codes beyond shape {shape}, expected none")
    return ((halves[: math.prod(shape)] ^ 8).astype(np.int8) - 8).reshape(shape)
