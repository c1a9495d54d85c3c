"""Weights as the kernels read them, and what their partial sums can reach. Layouts: csrc/kernels.hpp. Our choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oaq_repro import _kernels
from oaq_repro.integer.engine.sums import EXACT, PAIRS, WHOLE, Route
from oaq_repro.integer.engine.taps import MAXIMUM, MINIMUM, pair_taps
from oaq_repro.integer.graph.arithmetic import Array, product_range
from oaq_repro.integer.graph.nodes import QParams

CHANNEL_ORDER = list(_kernels.CHANNEL_ORDER)  # of the channels of a block in memory


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense layer's (or group's) weights for one geometry.

    runs: int32 [R, 3], offset from the window's first code, steps of 4 codes, pairs of codes. weights: int8
    [panels, steps, 16, 4], zero where a run or the output channels are padded.
    """

    runs: Array
    weights: Array
    outputs: int

    def half_sums(self, lowest_code: int, highest_code: int) -> tuple[Array, Array]:
        """Extremes of one step's half sums for codes in [lowest_code, highest_code]: int32 [panels, steps, 16, 2]."""
        low, high = product_range(self.weights, lowest_code, highest_code)
        return low[..., ::2] + low[..., 1::2], high[..., ::2] + high[..., 1::2]

    def safe_folds(self, lowest_code: int, highest_code: int, folds: tuple[int, ...]) -> dict[int, Array]:
        """Per fold S: for which channels (bool [panels, 16]) no half sum over a block of S steps can leave 16 bits.

        Folds that are as good as a smaller one are left out.
        """
        low, high = self.half_sums(lowest_code, highest_code)
        safe = {}
        for fold in folds:
            if fold >= 2 * self.runs[:, 1].max():
                continue
            borders = _block_borders(self.runs[:, 1], fold)
            safe[fold] = (_blocks(low, borders, 1).min((1, 3)) >= MINIMUM) & (
                _blocks(high, borders, 1).max((1, 3)) <= MAXIMUM
            )
        return safe

    def panels(self, routes: Sequence[Route], pairs: bool) -> tuple[list[Array], list[Route]]:
        """What the kernels read, panel by panel, and its route; with `pairs`, neighbours of WHOLE are one of PAIRS."""
        arrays: list[Array] = []
        taken: list[Route] = []
        index = 0
        while index < len(routes):
            route, width = routes[index], 1
            if pairs and tuple(routes[index : index + 2]) == (WHOLE, WHOLE):
                route, width = PAIRS, 2
            if route == PAIRS:
                weights = [_skewed(run[CHANNEL_ORDER]) for run in self._by_pairs(index, width)]
            elif route == EXACT:
                weights = self._by_pairs(index, width)
            else:
                weights = [self.weights[index].transpose(1, 0, 2)]
            arrays.append(np.ascontiguousarray(np.concatenate([run.transpose(1, 0, 2) for run in weights])))
            taken.append(route)
            index += width
        return arrays, taken

    def _by_pairs(self, index: int, width: int) -> list[Array]:
        """Of `width` panels from `index` on, every run's weights: int8 [channels, pairs, 2]."""
        channels = np.concatenate(self.weights[index : index + width], axis=1).transpose(1, 0, 2)
        runs = np.split(channels, np.cumsum(self.runs[:-1, 1]), axis=1)
        return [
            run.reshape(len(run), -1, _kernels.PAIR)[:, :pairs]
            for run, pairs in zip(runs, self.runs[:, 2].tolist(), strict=True)
        ]

    def whole_fits(self, q: QParams) -> Array:
        """For which channels (bool [panels, 16]) no sum of (code - zero_point) * weight can leave 16 bits."""
        low, high = (
            part.sum((1, 3), dtype=np.int64)
            for part in product_range(self.weights, -q.zero_point, q.q_max - q.zero_point)
        )
        return (low >= MINIMUM) & (high <= MAXIMUM)


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A block of 32 channels of a depthwise layer: taps int32 [T, 2], offsets in bytes; weights int8 [T, 32, 2], the
    channels in CHANNEL_ORDER."""

    taps: Array
    weights: Array

    def longest_fold(self, lowest_code: int, highest_code: int) -> int:
        """The largest F for which no sum of F pairs in a row can leave 16 bits, 0 if a pair can."""
        low, high = (part.sum(-1) for part in product_range(self.weights, lowest_code, highest_code))
        longest = 0
        for fold in range(1, len(self.taps) + 1):
            borders = np.arange(0, len(self.taps), fold)
            if _blocks(low, borders, 0).min() >= MINIMUM and _blocks(high, borders, 0).max() <= MAXIMUM:
                longest = fold
        return longest

    def whole_fits(self, q: QParams) -> bool:
        """Whether no sum of (code - zero_point) * weight can leave 16 bits."""
        low, high = (part.sum((0, 2)) for part in product_range(self.weights, -q.zero_point, q.q_max - q.zero_point))
        return bool(low.min() >= MINIMUM and high.max() <= MAXIMUM)


def _skewed(weights: Array) -> Array:
    """Weights [32, pairs, 2] with those of even channels one pair later: [32, pairs + 1, 2]."""
    result = np.pad(weights, ((0, 0), (0, 1), (0, 0)))
    result[::2] = np.roll(result[::2], 1, axis=1)
    return result


def pack_dense(weight: Array, row: int, channels: int, first_channel: int, dilation: tuple[int, int]) -> Dense:
    """Pack int8 weights [O, kh, kw, I] that read I of `channels` codes per pixel, `row` bytes per row of pixels.

    Neighbouring pixels' codes are one run where the window reads all channels of pixels side by side.
    """
    outputs, height, width, inputs = weight.shape
    joined = inputs == channels and dilation[1] == 1
    columns, length = (1, width * inputs) if joined else (width, inputs)
    steps = -(-length // _kernels.STEP)
    pairs = -(-length // _kernels.PAIR)
    runs = [
        (y * dilation[0] * row + x * dilation[1] * channels + first_channel, steps, pairs)
        for y in range(height)
        for x in range(columns)
    ]
    panels = -(-outputs // _kernels.PANEL)
    flat = weight.reshape(outputs, len(runs), length)
    missing = ((0, panels * _kernels.PANEL - outputs), (0, 0), (0, steps * _kernels.STEP - length))
    padded = np.pad(flat, missing).reshape(panels, _kernels.PANEL, len(runs) * steps, _kernels.STEP)
    return Dense(np.array(runs, np.int32), np.ascontiguousarray(padded.transpose(0, 2, 1, 3)), outputs)


def pack_depthwise(
    weight: Array, row: int, dilation: tuple[int, int], codes: tuple[int, int] | None
) -> list[Depthwise]:
    """Pack int8 weights [C, kh, kw], block by block of channels.

    codes: the smallest and largest one, for which taps are put together (taps.py); with None each stands alone, beside
    a weight of zero.
    """
    channels, height, width = weight.shape
    offsets = [y * dilation[0] * row + x * dilation[1] * channels for y in range(height) for x in range(width)]
    blocks = -(-channels // _kernels.CHANNEL_BLOCK)
    flat = np.pad(weight.reshape(channels, -1), ((0, blocks * _kernels.CHANNEL_BLOCK - channels), (0, 0)))
    alone = [(tap, tap) for tap in range(len(offsets))]
    packed = []
    for block in flat.reshape(blocks, _kernels.CHANNEL_BLOCK, -1)[:, CHANNEL_ORDER].transpose(0, 2, 1):  # [taps, 32]
        pairs = alone if codes is None else pair_taps(*product_range(block, *codes))
        weights = [np.stack([block[a], block[b] if b != a else np.zeros_like(block[b])], axis=-1) for a, b in pairs]
        taps = np.array([(offsets[a], offsets[b]) for a, b in pairs], np.int32)
        packed.append(Depthwise(taps, np.ascontiguousarray(weights, np.int8)))
    return packed


def _block_borders(steps: Array, fold: int) -> Array:
    """First step of every block: `fold` steps from the start of each run, and the rest of it."""
    ends = np.cumsum(steps)
    return np.concatenate([np.arange(end - count, end, fold) for end, count in zip(ends, steps, strict=True)])


def _blocks(values: Array, borders: Array, axis: int) -> Array:
    return np.add.reduceat(values, borders, axis=axis)
