"""Every operator as one step of the compiled program: one function each, found by the class of the node."""

from functools import singledispatch

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.fixed_point import mean_ratio, resize_shares
from oaq_repro.integer.engine.context import Compilation, kernel_window, quantization
from oaq_repro.integer.engine.layer_steps import append_layer
from oaq_repro.integer.engine.multipliers import of_sum, of_values
from oaq_repro.integer.graph.arithmetic import Array, rescaling_table
from oaq_repro.integer.graph.nodes import (
    Add,
    AvgPool,
    Concat,
    DepthToSpace,
    Dequantize,
    Flatten,
    GlobalAvgPool,
    Layer,
    Lookup,
    MaxPool,
    Multiply,
    Node,
    Quantize,
    Resize,
    ResizeNearest,
    Select,
    multiply_multiplier,
    pool_multiplier,
)
from oaq_repro.integer.graph.windows import Window
from oaq_repro.resampling import resize_taps


@singledispatch
def append(node: Node, to: Compilation) -> None:
    """Append the node's step; InputError for an operator that the engine does not have."""
    raise InputError(f"graph node {node.name!r}: found {type(node).__name__}, which the engine does not have")


append.register(Layer, append_layer)


@append.register
def _quantize(node: Quantize, to: Compilation) -> None:
    to.program.quantize(to.values[node.name], quantization(node.output))


@append.register
def _dequantize(node: Dequantize, to: Compilation) -> None:
    outputs = [index for index, name in enumerate(to.ordered.graph.outputs) if name == node.name]
    to.program.dequantize(to.x(node), quantization(to.source(node)), outputs)


@append.register
def _add(node: Add, to: Compilation) -> None:
    a, b, q = to.source(node, 0), to.source(node, 1), node.output
    constants = (of_sum(node, (a, b)), a.zero_point, b.zero_point, q.zero_point, q.q_max)
    to.program.add(to.x(node, 0), to.x(node, 1), to.values[node.name], *constants)


@append.register
def _multiply(node: Multiply, to: Compilation) -> None:
    at_a, at_b = sorted((0, 1), key=lambda at: -to.x(node, at).height * to.x(node, at).width)  # the single pixel last
    a, b, q = to.source(node, at_a), to.source(node, at_b), node.output
    multipliers = of_values(node, multiply_multiplier(a, b, q), node.ratio((a, b)))
    constants = (multipliers, a.zero_point, b.zero_point, q.zero_point, q.q_max)
    to.program.multiply(to.x(node, at_a), to.x(node, at_b), to.values[node.name], *constants)


@append.register
def _lookup(node: Lookup, to: Compilation) -> None:
    if node.inputs[0] in to.lookups:
        to.program.done()  # by the layer's step
    else:
        to.program.lookup([(to.x(node), to.codes(node))], to.values[node.name])


@append.register
def _concat(node: Concat, to: Compilation) -> None:
    parts = [(to.values[name], rescaling_table(to.qparams[name], node.output)) for name in node.inputs]
    to.program.lookup(parts, to.values[node.name])


@append.register
def _max_pool(node: MaxPool, to: Compilation) -> None:
    to.program.max_pool(to.x(node), to.values[node.name], kernel_window(node.window))


@append.register
def _average_pool(node: AvgPool, to: Compilation) -> None:
    x = to.x(node)
    _append_average(node, to, node.window, node.pixels(x.height, x.width))


@append.register
def _global_average_pool(node: GlobalAvgPool, to: Compilation) -> None:
    x = to.x(node)
    _append_average(node, to, Window((x.height, x.width)), node.pixels(x.height, x.width))


def _append_average(node: AvgPool | GlobalAvgPool, to: Compilation, window: Window, pixels: Array) -> None:
    source, q = to.source(node), node.output
    pixels = pixels.ravel()
    multipliers = of_values(node, pool_multiplier(source, q, pixels), mean_ratio(source.scale, q.scale, pixels))
    to.program.average_pool(
        to.x(node), to.values[node.name], kernel_window(window), source.zero_point, multipliers, q.zero_point, q.q_max
    )


@append.register
def _resize(node: Resize, to: Compilation) -> None:
    x, out = to.x(node), to.values[node.name]
    taps: list[Array] = []
    for before, after in ((x.height, out.height), (x.width, out.width)):
        first, second, t = resize_taps(before, after, node.align_corners)
        weights = t if node.requantization == "float32" else resize_shares(t)[1].astype(np.int32)
        taps += [np.stack([first, second], axis=1).astype(np.int64).ravel(), weights]
    to.program.resize(x, out, *taps, node.output.q_max)


@append.register
def _resize_nearest(node: ResizeNearest, to: Compilation) -> None:
    x = to.x(node)
    to.program.resize_nearest(x, to.values[node.name], *node.pixels(x.height, x.width))


@append.register
def _select(node: Select, to: Compilation) -> None:
    to.program.select(to.x(node), to.values[node.name], node.channels.astype(np.int32))


@append.register
def _depth_to_space(node: DepthToSpace, to: Compilation) -> None:
    to.program.depth_to_space(to.x(node), to.values[node.name], node.block)


@append.register
def _flatten(node: Flatten, to: Compilation) -> None:
    to.program.flatten(to.x(node), to.values[node.name])
