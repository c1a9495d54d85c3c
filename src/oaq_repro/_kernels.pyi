"""Types of the compiled module; built from csrc/bindings.cpp."""

from collections.abc import Sequence
from typing import Any

import numpy as np

def emulate(
    x: np.ndarray[Any, Any],
    weight: np.ndarray[Any, Any],
    zero_point: int,
    *,
    stride: tuple[int, int] = ...,
    padding: tuple[int, int, int, int] = ...,
    dilation: tuple[int, int] = ...,
    groups: int = ...,
    bits: int = ...,
    saturate: bool = ...,
    lanes: int = ...,
    block: int | None = ...,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int, int]: ...

Array = np.ndarray[Any, Any]

SLACK: int
PANEL: int
PAIR: int
STEP: int
CHANNEL_BLOCK: int
CHANNEL_ORDER: tuple[int, ...]
LARGEST_BIAS: int

def table() -> list[dict[str, Any]]: ...
def all_finite(values: Array) -> bool: ...
def bound_sums(
    weights: Array, run_steps: list[int], lowest: int, highest: int, folds: Sequence[int]
) -> tuple[Array, Array, Array, Array]: ...
def deal(reach: Array, ranks: list[int], block: int) -> Array: ...
def clock_hz() -> float: ...

class Value:
    height: int
    width: int
    channels: int
    def __init__(
        self, offset: int, height: int, width: int, channels: int, border_h: int, border_w: int, fill: int
    ) -> None: ...

class Window:
    def __init__(
        self, kh: int, kw: int, sh: int, sw: int, top: int, left: int, bottom: int, right: int, dh: int, dw: int
    ) -> None: ...

class Places:
    def __init__(self, first_h: int, first_w: int, step_h: int, step_w: int) -> None: ...

class Quantization:
    def __init__(self, scale: float, zero_point: int, q_max: int) -> None: ...

class Multipliers:
    @staticmethod
    def float32(values: Array) -> Multipliers: ...
    @staticmethod
    def dyadic(multiplier: Array, shift: Array) -> Multipliers: ...
    @staticmethod
    def fixed16(multiplier: Array, shift: Array | None = ...) -> Multipliers: ...

class LayerConstants:
    def __init__(
        self,
        start: Array,
        bias: Array,
        multipliers: Multipliers,
        wrap_shift: int,
        zero_point: int,
        q_max: int,
        code_offset: int,
    ) -> None: ...

class DenseGroup:
    def __init__(self, panels: Sequence[tuple[Array, Array, tuple[str, int]]], constants: LayerConstants) -> None: ...

class Program:
    isa: str
    def __init__(self, arena_bytes: int, threads: int, isa: str) -> None: ...
    def quantize(self, out: Value, q: Quantization) -> None: ...
    def dense(
        self,
        x: Value,
        out: Value,
        window: Window,
        groups: list[DenseGroup],
        places: Places,
        table: Array,
    ) -> None: ...
    def depthwise(
        self,
        x: Value,
        out: Value,
        window: Window,
        taps: list[Array],
        weights: list[Array],
        routes: Sequence[tuple[str, int]],
        constants: LayerConstants,
        places: Places,
        table: Array,
    ) -> None: ...
    def dense_depthwise(
        self,
        x: Value,
        buffers: Value,
        height: int,
        out: Value,
        dense_window: Window,
        groups: list[DenseGroup],
        dense_table: Array,
        window: Window,
        taps: list[Array],
        weights: list[Array],
        routes: Sequence[tuple[str, int]],
        constants: LayerConstants,
        table: Array,
    ) -> None: ...
    def emulate(
        self,
        x: Value,
        out: Value,
        shape: list[int],
        window: Window,
        groups: int,
        bits: int,
        saturate: bool,
        lanes: int,
        block: int,
        zero_point: int,
        weight: Array,
        constants: LayerConstants,
        places: Places,
        skip: list[int],
        table: Array,
    ) -> None: ...
    def add(
        self,
        a: Value,
        b: Value,
        out: Value,
        multipliers: Multipliers,
        zero_a: int,
        zero_b: int,
        zero_point: int,
        q_max: int,
    ) -> None: ...
    def multiply(
        self,
        a: Value,
        b: Value,
        out: Value,
        multipliers: Multipliers,
        zero_a: int,
        zero_b: int,
        zero_point: int,
        q_max: int,
    ) -> None: ...
    def lookup(self, parts: list[tuple[Value, Array]], out: Value) -> None: ...
    def max_pool(self, x: Value, out: Value, window: Window) -> None: ...
    def average_pool(
        self,
        x: Value,
        out: Value,
        window: Window,
        source_zero_point: int,
        multipliers: Multipliers,
        zero_point: int,
        q_max: int,
    ) -> None: ...
    def resize(
        self, x: Value, out: Value, rows: Array, row_weights: Array, columns: Array, column_weights: Array, q_max: int
    ) -> None: ...
    def resize_nearest(self, x: Value, out: Value, rows: Array, columns: Array) -> None: ...
    def select(self, x: Value, out: Value, channels: Array) -> None: ...
    def done(self) -> None: ...
    def depth_to_space(self, x: Value, out: Value, block: int) -> None: ...
    def flatten(self, x: Value, out: Value) -> None: ...
    def dequantize(self, x: Value, q: Quantization, outputs: list[int]) -> None: ...
    def join(self, count: int) -> None: ...
    def run(self, input: Array, outputs: list[Array]) -> None: ...
    def profile(self, input: Array, outputs: list[Array], repeats: int) -> list[float]: ...
    def read(self, value: Value, codes: Array) -> None: ...
