"""Weights of ONNX layers as matrices [outputs, K]: every product that meets in one sum, in the order of k.

The order is that of `accumulator`: (kernel row, kernel column, channel of the group). Any number of dimensions.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.reader import OnnxNode
from oaq_repro.transposed import meeting_taps

Fill = Literal["constant", "edge"]  # modes of np.pad, for rows that are shorter than others: zeros, or their last value
Arrange = Callable[[Array, Fill], Array]
"""Values at the places of a layer's weights as a matrix."""


def conv_rows(values: Array, fill: Fill) -> Array:
    """[O, I / groups, *kernel] as [O, K]."""
    return np.moveaxis(values, 1, -1).reshape(len(values), -1)


def linear_rows(left: bool, transposed: bool) -> Arrange:
    """[..., K, O] as [O, K]; of weights on the `left` of a product, [..., O, K]; each with the last two exchanged."""

    def rows(values: Array, fill: Fill) -> Array:
        if values.ndim == 1:
            return values[None]
        if left == transposed:
            values = values.swapaxes(-1, -2)
        return values.reshape(-1, values.shape[-1])

    return rows


def transposed_rows(node: OnnxNode, shape: tuple[int, ...]) -> Arrange:
    """[I, O / groups, *kernel] of a ConvTranspose as [rows, K]; InputError where its attributes do not fit.

    With a stride, the taps that meet in a pixel depend on where it lies: one row per output channel and place modulo
    the stride. Their order is that of `oaq_repro.transposed`.
    """
    kernel, ones = shape[2:], (1,) * len(shape[2:])
    strides, dilations = node.attribute("strides", ones), node.attribute("dilations", ones)
    groups = node.attribute("group", 1)
    fitting = len(strides) == len(dilations) == len(kernel) and min((*strides, *dilations, groups)) > 0
    if not fitting or shape[0] % groups:
        raise node.error(f"strides, dilations and group do not fit the weight {list(shape)}")
    axes = [meeting_taps(*axis).values() for axis in zip(kernel, strides, dilations, strict=True)]
    meeting: list[tuple[Any, ...]] = [np.ix_(*place) for place in product(*axes)]
    return partial(_gathered, groups, meeting)


def _gathered(groups: int, meeting: list[tuple[Any, ...]], values: Array, fill: Fill) -> Array:
    values = np.moveaxis(
        values.reshape(groups, -1, *values.shape[1:]), 1, -1
    )  # [groups, O / groups, *kernel, I / groups]
    outputs = groups * values.shape[1]
    rows = [values[(..., *taps, slice(None))].reshape(outputs, -1) for taps in meeting]
    longest = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, longest - row.shape[1])), fill) for row in rows])
