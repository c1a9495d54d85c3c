"""Routes for kernels that multiply signed codes (csrc/neon.hpp): what is planned, computed by such kernels in NumPy."""

from collections import namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.integer.engine.compiling import compile_graph
from oaq_repro.integer.engine.packing import pack_dense
from oaq_repro.integer.engine.plan import place
from oaq_repro.integer.engine.reorder import as_given
from oaq_repro.integer.engine.routes import Demand, InstructionSet, channel_folds
from oaq_repro.integer.engine.sums import EXACT, MODES, WHOLE, Permits, folded
from oaq_repro.integer.graph import Conv, Dequantize, Graph, QParams, Quantize

NEON = InstructionSet("neon", 127, False, (1, 2, 4, 8, 16), pairs=False)
SIZE = 3  # of the kernel and of the image: one output pixel


class Program:
    """Keeps what the compiler hands over, and computes the accumulators of the one output pixel."""

    def __init__(self):
        self.layers = []

    def quantize(self, *_):
        pass

    dequantize = quantize

    def join(self, count):
        assert count == 1

    def dense(self, x, out, window, groups, places, table):
        self.layers += [partial(self.group, out.channels // len(groups), group) for group in groups]

    @staticmethod
    def group(outputs, group, codes):
        constants, acc = group.constants, []
        for p, (runs, panel, route) in enumerate(group.panels):
            start = constants.start[p * _kernels.PANEL :][: _kernels.PANEL]
            acc.append(dense_panel(codes, runs, panel, route, start, constants.code_offset))
        return wrap(np.concatenate(acc)[:outputs], 32 - constants.wrap_shift)

    def depthwise(self, x, out, window, taps, weights, routes, constants, places, table):
        def compute(codes):
            acc = []
            for b, (pairs, block, route) in enumerate(zip(taps, weights, routes, strict=True)):
                start = constants.start[b * _kernels.CHANNEL_BLOCK :][: _kernels.CHANNEL_BLOCK]
                offset = constants.code_offset
                acc.append(depthwise_block(codes[b * _kernels.CHANNEL_BLOCK :], pairs, block, route, start, offset))
            return wrap(np.concatenate(acc)[: x.channels], 32 - constants.wrap_shift)

        self.layers.append(compute)


def wrap(values, bits):
    half = 1 << (bits - 1)
    return (np.asarray(values, np.int64) + half) % (2 * half) - half


def signed(codes, code_offset):
    """Codes as a register of signed bytes holds them."""
    return (codes ^ np.uint8(0x80) if code_offset else codes).view(np.int8).astype(np.int64)


def dense_panel(codes, runs, panel, route, start, code_offset):
    """Four 16-bit sums per channel, one per code of a step."""
    acc, step = start.astype(np.int64), 0
    for offset, steps, pairs in runs.tolist():
        if route == EXACT:
            taken = codes[offset : offset + 2 * pairs].reshape(pairs, 1, 2)
            acc += (taken.astype(np.int64) * panel[step : step + pairs]).sum((0, 2))
            step += pairs
            continue
        taken = codes[offset : offset + 4 * steps].reshape(steps, 1, 4)
        weights = panel[step : step + steps].astype(np.int64)
        step += steps
        products = signed(taken, code_offset) * weights
        first = 0
        while first < steps:
            count = min(route.fold or 1, steps - first)
            parts = wrap(products[first : first + count].sum(0), 16)
            acc += wrap(parts[:, :2].sum(1), 16) + wrap(parts[:, 2:].sum(1), 16)
            first += count
    return wrap(acc, 16 if route == WHOLE else 32)


def depthwise_block(codes, taps, weights, route, start, code_offset):
    lanes = [*range(8), *range(16, 24), *range(8, 16), *range(24, 32)]  # the channel at each place
    channels = np.argsort(lanes)
    acc = start.astype(np.int64)
    codes = codes.astype(np.int64) if route == EXACT else signed(codes, code_offset)
    for first in range(0, len(taps), route.fold or len(taps)):
        part = np.zeros_like(acc)
        for t in range(first, min(first + (route.fold or len(taps)), len(taps))):
            for which in range(2):
                part += codes[taps[t, which] :][: len(acc)] * weights[t, channels, which].astype(np.int64)
        acc += part if route == EXACT else wrap(part, 16)
    return wrap(acc, 16 if route == WHOLE else 32)


def random_weights(rng, style, shape):
    if style == "extreme":
        return rng.choice([-128, 127], (shape[0], 1, 1, 1)) * np.ones(shape, int)
    return rng.integers(-128, 128, shape) if style == "any" else rng.integers(-9, 10, shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("q_max", [100, 127, 128, 255])
@pytest.mark.parametrize("groups", [1, 2, 40])
@pytest.mark.parametrize("style", ["extreme", "any", "small"])
def test_planned_sums_are_exact(mode, q_max, groups, style, monkeypatch):
    monkeypatch.setattr(_kernels, "LayerConstants", SimpleNamespace)
    monkeypatch.setattr(_kernels, "DenseGroup", namedtuple("DenseGroup", "panels constants"))
    rng = np.random.default_rng(q_max)
    channels, outputs, zero_point = 40 if groups == 40 else 10, 40, int(rng.integers(0, q_max + 1))
    weight = random_weights(rng, style, (outputs, channels // groups, SIZE, SIZE)).astype(np.int8)
    scale, accumulator = np.float32(1), Accumulator(bits=int(rng.choice([12, 16, 20])))
    ones = np.ones(outputs, np.float32)
    layer = Conv(
        "layer", ("x",), QParams(scale, 0, 255), weight, np.zeros(outputs, np.int32), ones, ones, stride=(1, 1),
        padding=(0, 0), dilation=(1, 1), groups=groups, accumulator=accumulator,
    )  # fmt: skip
    nodes = (Quantize("x", ("image",), QParams(scale, zero_point, q_max)), layer, Dequantize("y", ("layer",)))
    graph = Graph("image", nodes, ("y",))
    shapes = graph.shapes((channels, SIZE, SIZE))
    program, permits = Program(), Permits.of(mode)
    compile_graph(program, as_given(graph, permits), place(graph, shapes, share=True)[0], permits, NEON, {})

    def check(codes):
        """codes: [channels, SIZE, SIZE]"""
        memory = np.concatenate([codes.transpose(1, 2, 0).ravel(), np.full(_kernels.SLACK, 255)]).astype(np.uint8)
        found = np.concatenate([compute(memory) for compute in program.layers])
        parts = (codes - zero_point).reshape(groups, 1, -1) * weight.astype(np.int64).reshape(
            groups, outputs // groups, -1
        )
        np.testing.assert_array_equal(found, wrap(parts.sum(2).ravel(), accumulator.bits if mode == "fast" else 32))

    for o in range(0, outputs, 3):  # largest and smallest sums
        group = slice(o // (outputs // groups) * (channels // groups), None)
        for top in (True, False):
            codes = np.zeros((channels, SIZE, SIZE), np.int64)
            codes[group][: channels // groups] = np.where((weight[o] > 0) == top, q_max, 0)
            check(codes)
    for _ in range(5):
        check(rng.integers(0, q_max + 1, (channels, SIZE, SIZE)))
        check(rng.choice([0, q_max], (channels, SIZE, SIZE)))


@pytest.mark.parametrize("weight, route", [(-128, EXACT), (-127, folded(1)), (127, folded(1))])
def test_two_products_of_the_smallest_code_and_weight_do_not_fit(weight, route):
    """(-128) * (-128) fits 16 bits, twice that is 32768 and does not."""
    packed = pack_dense(np.full((16, 1, 1, 64), weight, np.int8), 64, 64, 0, (1, 1))
    for mode in ("certified", "acc32"):
        q, bias = QParams(np.float32(1), 128, 255), np.zeros(16, np.int32)
        assert channel_folds(packed, bias, q, Demand(32, "certified"), Permits.of(mode), NEON).panels() == (route,)


def test_codes_of_seven_bits_are_not_shifted():
    assert [NEON.code_offset(QParams(np.float32(1), 0, q_max)) for q_max in (127, 128)] == [0, 128]
