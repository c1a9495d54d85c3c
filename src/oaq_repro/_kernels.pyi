"""Types of the compiled module; built from csrc/bindings.cpp."""

from typing import Any

import numpy as np

def conv2d(
    x: np.ndarray[Any, Any],
    weight: np.ndarray[Any, Any],
    zero_point: int,
    *,
    stride: tuple[int, int] = ...,
    padding: tuple[int, int] = ...,
    dilation: tuple[int, int] = ...,
    groups: int = ...,
    bits: int = ...,
    saturate: bool = ...,
    lanes: int = ...,
    block: int | None = ...,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int, int]: ...
