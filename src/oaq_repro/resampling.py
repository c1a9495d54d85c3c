"""Where resizing reads: positions and weights of one axis. Shared by simulation, reference, engine and ONNX."""

import numpy as np


def resize_taps(size: int, output_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and weights of one axis of a bilinear resize, as torch.nn.functional.interpolate places them.

    Returns (first int64 [output_size], second int64, t float32): the value is `x[first] * (1 - t) + x[second] * t`.
    In float64: with align_corners `position = i * ((size - 1) / (output_size - 1))` (0 where output_size is 1),
    otherwise `position = max((i + 0.5) * (size / output_size) - 0.5, 0)`; first = floor(position), at most size - 1;
    second = min(first + 1, size - 1); t = position - first, rounded to float32.
    """
    i = np.arange(output_size, dtype=np.float64)
    if align_corners:
        position = i * ((size - 1) / (output_size - 1) if output_size > 1 else 0.0)
    else:
        position = np.maximum((i + 0.5) * (size / output_size) - 0.5, 0.0)
    first = np.minimum(np.floor(position).astype(np.int64), size - 1)
    return first, np.minimum(first + 1, size - 1), (position - first).astype(np.float32)


def nearest_pixels(size: int, numerator: int, denominator: int, rule: str) -> np.ndarray:
    """The pixel, int64, that each pixel i of one axis takes when its size is multiplied by f = numerator / denominator.

    In exact integers: "floor", floor(i / f), is torch's mode nearest (ONNX: asymmetric, floor); "half_pixel",
    ceil((i + 0.5) / f - 1), is ONNX's half_pixel with round_prefer_floor; both at most size - 1 and at least 0.
    """
    i = np.arange(size * numerator // denominator, dtype=np.int64)
    if rule == "floor":
        return np.minimum(i * denominator // numerator, size - 1)
    return np.clip(-((2 * numerator - (2 * i + 1) * denominator) // (2 * numerator)), 0, size - 1)
