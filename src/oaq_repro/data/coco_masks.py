"""COCO's segmentations, checked before pycocotools sees them: its C code takes bad coordinates and lengths on trust."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from oaq_repro.data.fields import shown, unexpected
from oaq_repro.data.notes import Repairs

FEW_POINTS = "polygons of fewer than three points, dropped"
LEAST_NUMBERS = 6
"""x and y of three points."""


def check_segmentation(value: Any, size: tuple[int, int], where: str, place: str, repairs: Repairs) -> Any:
    """Return the polygons or the RLE that can be drawn on (height, width); None where there is not one pixel to draw.

    Polygons of fewer than three points are dropped and counted. InputError for everything else that cannot be drawn.
    """
    if value is None or isinstance(value, list):
        kept = [polygon for polygon in value or () if _is_drawn(polygon, size, where)]
        for _ in range(sum(polygon != [] for polygon in value or ()) - len(kept)):
            repairs.count(FEW_POINTS, place)
        return kept or None
    return value if run_lengths(value, size, where)[1::2].any() else None


def draw(segmentation: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Return the pixels of a checked segmentation, bool [height, width]."""
    if isinstance(segmentation, list):
        return coco_mask.decode(_encode(segmentation, size)).astype(bool)
    runs = run_lengths(segmentation, size, where)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T


def area(segmentation: Any, size: tuple[int, int], where: str) -> float:
    """Return the number of pixels of a checked segmentation."""
    if isinstance(segmentation, list):
        return float(coco_mask.area(_encode(segmentation, size)))
    return float(run_lengths(segmentation, size, where)[1::2].sum())


def _encode(polygons: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *size))


def _is_drawn(polygon: Any, size: tuple[int, int], where: str) -> bool:
    """Whether a polygon has three points; InputError for numbers that are none, or far outside the image."""
    if not isinstance(polygon, list) or not all(type(v) is int or type(v) is float for v in polygon):
        raise unexpected(where, shown(polygon), "polygons (lists of numbers) or RLE")
    if len(polygon) % 2:
        raise unexpected(where, f"a polygon of {len(polygon)} numbers", "x and y of every point")
    for side, values in zip(size[::-1], (polygon[::2], polygon[1::2]), strict=True):
        if not all(-side <= v <= 2 * side for v in values):  # nan is not, either
            raise unexpected(where, f"a point at {shown(max(values, key=abs))}", f"points of a side of {side} pixels")
    return len(polygon) >= LEAST_NUMBERS


def run_lengths(value: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Return the lengths of the runs, int64, beginning with one of background, column by column.

    InputError unless `value` is an RLE (compressed or not) of (height, width) whose runs fill it.
    """
    if not isinstance(value, dict) or value.get("size") != list(size):
        found = f"RLE of size {shown(value.get('size'))}" if isinstance(value, dict) else shown(value)
        raise unexpected(where, found, f"polygons, or RLE of size {list(size)}")
    counts = value.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    pixels = size[0] * size[1]
    if (
        not isinstance(runs, list)
        or not all(type(run) is int and 0 <= run <= pixels for run in runs)
        or sum(runs) != pixels
    ):
        raise unexpected(where, f"RLE with counts {shown(counts)}", f"run lengths that fill {pixels} pixels")
    return np.array(runs, dtype=np.int64)


def _decompress(text: str) -> list[int]:
    """Run lengths of a compressed RLE (COCO API, maskApi.c): 5 bits a character from 48 on, lowest first.

    The sixth bit says that the number goes on, the highest of the last five is its sign; from the fourth
    number on each is the difference to the one two before. A text that is none gives runs that fill nothing.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return []
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number = shift = 0
    return [] if shift else runs
