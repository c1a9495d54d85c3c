"""Checked drawing beside pycocotools' own."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from oaq_repro.data.coco_masks import area, check_segmentation, draw, run_lengths
from oaq_repro.data.notes import Repairs
from oaq_repro.errors import InputError

SIZE = (30, 40)
MASKS = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 200)), elements=st.integers(0, 1))


@given(MASKS)
def test_compressed_and_plain_rle_are_the_mask(mask: np.ndarray) -> None:
    size = mask.shape
    text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    compressed = {"size": list(size), "counts": text}
    plain = {"size": list(size), "counts": run_lengths(compressed, size, "f").tolist()}
    for rle in (compressed, plain):
        assert np.array_equal(draw(rle, size, "f"), mask.astype(bool))
        assert area(rle, size, "f") == mask.sum()
    assert (check_segmentation(compressed, size, "f", "a", Repairs("f")) is None) == (not mask.any())


POINTS = st.lists(st.tuples(st.floats(-40, 80), st.floats(-30, 60)), min_size=3, max_size=8)


@given(st.lists(POINTS, min_size=1, max_size=3))
def test_polygons_are_drawn_as_pycocotools_does(polygons: list[list[tuple[float, float]]]) -> None:
    flat = [[v for point in polygon for v in point] for polygon in polygons]
    assert check_segmentation(flat, SIZE, "f", "a", Repairs("f")) == flat
    expected = np.any([coco_mask.decode(coco_mask.frPyObjects([p], *SIZE))[..., 0] for p in flat], axis=0)
    assert np.array_equal(draw(flat, SIZE, "f"), expected)
    assert area(flat, SIZE, "f") == expected.sum()


@given(st.text(max_size=30))
def test_no_text_is_taken_for_runs_that_do_not_fill_the_image(text: str) -> None:
    try:
        runs = run_lengths({"size": [3, 4], "counts": text}, (3, 4), "f")
    except InputError:
        return
    assert runs.sum() == 12 and (runs >= 0).all()


@pytest.mark.parametrize("counts", [[], [11], [13], [0, 12.0], [True, 11], [-1, 13], [2**40], "", None, [[12]]])
def test_runs_that_do_not_fill_the_image(counts: Any) -> None:
    """pycocotools returns whatever the memory holds for those that are too short."""
    with pytest.raises(InputError, match="f: found RLE with counts .*; expected run lengths that fill 12 pixels"):
        run_lengths({"size": [3, 4], "counts": counts}, (3, 4), "f")
