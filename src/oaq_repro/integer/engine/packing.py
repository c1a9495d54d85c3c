"""Weights as the kernels read them, and what their partial sums can reach. Layouts: csrc/kernels.hpp. Our choice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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

    def bounds(self, lowest_code: int, highest_code: int, folds: Sequence[int]) -> "SumBounds":
        """What sums of products of codes in [lowest_code, highest_code] can reach."""
        panels, steps = self.weights.shape[:2]
        longest, apart, positive, negative = _kernels.bound_sums(
            self.weights, self.runs[:, 1].tolist(), lowest_code, highest_code, folds
        )
        channels = panels * _kernels.PANEL
        by_channel = apart.reshape(panels, steps, _kernels.PANEL).transpose(0, 2, 1).reshape(channels, steps)
        bounds = SumBounds(longest, by_channel.astype(bool), positive, negative)
        return SumBounds(*(values[: self.outputs] for values in bounds))

    def panels(self, routes: Sequence[Route], pairs: bool, apart: Array) -> list[tuple[Array, Array, Route]]:
        """What the kernels read, panel by panel: its runs, weights and route.

        With `pairs`, neighbours of WHOLE are one panel of PAIRS, unless that takes more apart than it saves. apart:
        bool [O, steps], where WHOLE takes the pairs of a step apart, which could saturate.
        """
        packed: list[tuple[Array, Array, Route]] = []
        masks = np.logical_or.reduceat(apart, np.arange(0, self.outputs, _kernels.PANEL))  # [panels, steps]
        index = 0
        while index < len(routes):
            route, width = routes[index], 1
            if pairs and tuple(routes[index : index + 2]) == (WHOLE, WHOLE) and self._join(masks[index : index + 2]):
                route, width = PAIRS, 2
            part = replace(self, weights=self.weights[index : index + width])
            if routes[index] == WHOLE:
                part = part._taken_apart(np.logical_or.reduce(masks[index : index + width]))
            packed.append((part.runs, part._laid_out(route), route))
            index += width
        return packed

    def _join(self, masks: Array) -> bool:
        """Whether two panels of WHOLE, with these steps to be taken apart (bool [2, steps]), are faster as PAIRS.

        In steps of one panel: a step of PAIRS is two, a run of it one more, and its end saves two (counted in
        instructions of the AVX2 kernels).
        """
        both = np.logical_or(*masks)
        return 2 * int(both.sum()) + len(self._stretches(both)) <= int(masks.sum()) + 2

    def _taken_apart(self, apart: Array) -> "Dense":
        """The same sums by pairs of one product each in these steps (bool [steps]): second ones go to more runs."""
        if not apart.any():
            return self
        first, second = self.weights.copy(), self.weights[:, apart]
        first[:, apart, :, 1::2] = 0
        second[..., ::2] = 0
        runs = np.concatenate([self.runs, np.array(self._stretches(apart), np.int32)])
        return replace(self, runs=runs, weights=np.concatenate([first, second], axis=1))

    def _stretches(self, steps: Array) -> list[tuple[int, int, int]]:
        """Runs of those steps alone (bool [steps]) that stand side by side: offset, steps, pairs."""
        found, begin, per_step = [], 0, _kernels.STEP // _kernels.PAIR
        for offset, count, pairs in self.runs.tolist():
            borders = np.flatnonzero(np.diff(np.concatenate([[False], steps[begin : begin + count], [False]])))
            begin += count
            found += [
                (offset + at * _kernels.STEP, end - at, min(end * per_step, pairs) - at * per_step)
                for at, end in borders.reshape(-1, 2).tolist()
            ]
        return found

    def _laid_out(self, route: Route) -> Array:
        """The weights as the kernels of this route read them: int8, of all panels together."""
        if route == PAIRS:
            weights = [_skewed(run[CHANNEL_ORDER]) for run in self._by_pairs()]
        elif route == EXACT:
            weights = self._by_pairs()
        else:
            weights = [self.weights[0].transpose(1, 0, 2)]
        return np.ascontiguousarray(np.concatenate([run.transpose(1, 0, 2) for run in weights]))

    def _by_pairs(self) -> list[Array]:
        """Every run's weights: int8 [channels, pairs, 2]."""
        channels = np.concatenate(self.weights, axis=1).transpose(1, 0, 2)
        runs = np.split(channels, np.cumsum(self.runs[:-1, 1]), axis=1)
        return [
            run.reshape(len(run), -1, _kernels.PAIR)[:, :pairs]
            for run, pairs in zip(runs, self.runs[:, 2].tolist(), strict=True)
        ]


class SumBounds(NamedTuple):
    """What the sums of a dense layer's output channels can reach.

    longest: int64 [O], the longest fold of which no half sum can leave 16 bits, 0 where there is none. apart: bool
    [O, steps], whether a half sum of the step alone can. positive, negative: int64 [O], sums of the weights of either
    sign.
    """

    longest: Array
    apart: Array
    positive: Array
    negative: Array

    def whole_fits(self, q: QParams) -> Array:
        """For which channels (bool [O]) no sum of (code - zero_point) * weight can leave 16 bits."""
        lowest, highest = -q.zero_point, q.q_max - q.zero_point
        low, high = (a * self.positive + b * self.negative for a, b in ((lowest, highest), (highest, lowest)))
        return (low >= MINIMUM) & (high <= MAXIMUM)


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A block of 32 channels of a depthwise layer: taps int32 [T, 2], offsets in bytes; weights int8 [T, 32, 2], the
    channels in CHANNEL_ORDER."""

    taps: Array
    weights: Array

    def two_by_two(self) -> "Depthwise":
        """The same taps, none of them alone but the last of an odd number: for products that go to 32 bits at once."""
        second = self.taps[:, 0] != self.taps[:, 1]
        taps = np.concatenate([self.taps[:, 0], self.taps[second, 1]])
        weights = np.concatenate([self.weights[..., 0], self.weights[second, :, 1]])
        if len(taps) % 2:
            taps, weights = np.append(taps, taps[-1]), np.concatenate([weights, np.zeros_like(weights[:1])])
        pairs = weights.reshape(-1, 2, weights.shape[1]).transpose(0, 2, 1)
        return Depthwise(taps.reshape(-1, 2), np.ascontiguousarray(pairs))

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


def pack_depthwise(weight: Array, row: int, dilation: tuple[int, int], codes: tuple[int, int]) -> list[Depthwise]:
    """Pack int8 weights [C, kh, kw], block by block of channels.

    codes: the smallest and largest one, for which taps are put together (taps.py); where a tap can have no partner it
    stands alone, beside a weight of zero.
    """
    channels, height, width = weight.shape
    offsets = [y * dilation[0] * row + x * dilation[1] * channels for y in range(height) for x in range(width)]
    blocks = -(-channels // _kernels.CHANNEL_BLOCK)
    flat = np.pad(weight.reshape(channels, -1), ((0, blocks * _kernels.CHANNEL_BLOCK - channels), (0, 0)))
    packed = []
    for block in flat.reshape(blocks, _kernels.CHANNEL_BLOCK, -1)[:, CHANNEL_ORDER].transpose(0, 2, 1):  # [taps, 32]
        pairs = pair_taps(*product_range(block, *codes))
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
