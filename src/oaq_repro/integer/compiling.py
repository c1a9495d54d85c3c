"""A graph's nodes as operators of the compiled program: packs weights, chooses routes, writes constants."""

from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.errors import InputError
from oaq_repro.integer import operators
from oaq_repro.integer.explain import LayerRoute, reason_of
from oaq_repro.integer.nodes import (
    Add,
    AvgPool,
    Concat,
    Conv,
    Dequantize,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Node,
    QParams,
    Quantize,
    Requantize,
    Resize,
    ResizeNearest,
    pool_multiplier,
)
from oaq_repro.integer.packing import pack_dense, pack_depthwise
from oaq_repro.integer.plan import Placement
from oaq_repro.integer.reorder import Ordered
from oaq_repro.integer.routes import (
    Demand,
    InstructionSet,
    Mode,
    Obstacle,
    channel_folds,
    depthwise_codes,
    depthwise_folds,
    scales_within_int32,
)
from oaq_repro.integer.shapes import Shape, nearest_pixels, pooled_pixels, resize_taps
from oaq_repro.quant.accumulator import Accumulator

Array = np.ndarray[Any, Any]
MOST_GROUPS = 1024  # that are packed one by one


def compile_graph(
    program: Any,
    ordered: Ordered,
    placed: dict[str, Placement],
    shapes: dict[str, Shape],
    mode: Mode,
    kernels: InstructionSet,
) -> tuple[dict[str, Any], tuple[LayerRoute, ...]]:
    """Append every node to the program; returns the values by name and the routes of the layers."""
    compiler = _Compiler(program, ordered, placed, shapes, mode, kernels)
    for node in ordered.graph.nodes:
        compiler.add(node)
    return compiler.values, tuple(compiler.routes)


class _Compiler:
    def __init__(self, program, ordered: Ordered, placed, shapes, mode, kernels) -> None:
        graph = ordered.graph
        self.program, self.graph, self.placed, self.shapes = program, graph, placed, shapes
        self.demands, self.folds = ordered.demands, ordered.folds
        self.mode, self.kernels = mode, kernels
        self.qparams = {node.name: node.output for node in graph.nodes if not isinstance(node, Dequantize)}
        self.values = {name: _value(place, self.qparams[name].zero_point) for name, place in placed.items()}
        self.routes: list[LayerRoute] = []

    def add(self, node: Node) -> None:
        """Append one node, as one operator."""
        program = self.program
        if isinstance(node, Quantize):
            program.quantize(self.values[node.name], _quantization(node.output))
            return
        inputs = [self.values[name] for name in node.inputs]
        sources = [self.qparams[name] for name in node.inputs]
        x, source = inputs[0], sources[0]
        if isinstance(node, Dequantize):
            outputs = [index for index, name in enumerate(self.graph.outputs) if name == node.name]
            program.dequantize(x, _quantization(source), outputs)
            return
        out, q = self.values[node.name], node.output
        match node:
            case Conv() | Linear():
                self._layer(node, x, out, source)
            case Add():
                program.add(x, inputs[1], out, *(_quantization(each) for each in (*sources, q)))
            case Requantize() | Concat():
                program.lookup([(part, _table(each, q)) for part, each in zip(inputs, sources, strict=True)], out)
            case MaxPool():
                program.max_pool(x, out, _window(node.kernel, node.stride, node.padding, node.dilation))
            case AvgPool():
                window = _window(node.kernel, node.stride, node.padding, (1, 1))
                self._average(x, out, window, source, q, pooled_pixels(node, x.height, x.width))
            case GlobalAvgPool():
                window = _window((x.height, x.width), (1, 1), (0, 0), (1, 1))
                self._average(x, out, window, source, q, np.array([x.height * x.width]))
            case Resize():
                taps = []
                for before, after in ((x.height, out.height), (x.width, out.width)):
                    first_tap, second, t = resize_taps(before, after, node.align_corners)
                    taps += [np.stack([first_tap, second], axis=1).astype(np.int64).ravel(), t]
                program.resize(x, out, *taps, q.q_max)
            case ResizeNearest():
                sizes = (x.height, *node.factor[:2]), (x.width, *node.factor[2:])
                program.resize_nearest(x, out, *(nearest_pixels(*size, node.rule) for size in sizes))
            case Flatten():
                program.flatten(x, out)
            case _:
                raise InputError(
                    f"graph node {node.name!r}: found {type(node).__name__}, which the engine does not have"
                )

    def _average(self, x, out, window, source: QParams, output: QParams, counts: Array) -> None:
        multipliers = pool_multiplier(source, output, counts).ravel()
        self.program.average_pool(x, out, window, source.zero_point, multipliers, output.zero_point, output.q_max)

    def _layer(self, layer: Layer, x, out, source: QParams) -> None:
        demanded = self.demands[layer.name]
        if isinstance(layer, Conv):
            weight = np.ascontiguousarray(layer.weight.transpose(0, 2, 3, 1))
            window = _window(weight.shape[1:3], layer.stride, layer.padding, layer.dilation)
            dilation, groups = layer.dilation, layer.groups
        else:
            weight = np.ascontiguousarray(layer.weight).reshape(len(layer.weight), 1, 1, -1)
            window, dilation, groups = _window((1, 1), (1, 1), (0, 0), (1, 1)), (1, 1), 1
        if demanded is None:
            reason = f"{layer.accumulator.name} can overflow, and no kernel has it"
            self._reference(layer, x, out, source, weight, window, groups, layer.accumulator, reason)
            return
        if not scales_within_int32(layer, source, demanded):
            policy = Accumulator(bits=demanded.bits)
            self._reference(layer, x, out, source, weight, window, groups, policy, "its multipliers can leave int32")
            return
        place = self.placed[layer.inputs[0]]
        if groups == place.channels == len(weight) and groups > 1:
            self._depthwise(layer, x, out, source, weight, window, dilation, demanded)
        elif groups > MOST_GROUPS:
            policy = Accumulator(bits=demanded.bits)
            self._reference(layer, x, out, source, weight, window, groups, policy, f"more than {MOST_GROUPS} groups")
        else:
            self._dense(layer, x, out, source, weight, window, dilation, groups, demanded)

    def _dense(self, layer, x, out, source, weight, window, dilation, groups: int, demanded: Demand) -> None:
        place = self.placed[layer.inputs[0]]
        outputs, inputs = len(weight) // groups, weight.shape[3]
        folds: list[int] = []
        operands, obstacles = [], Obstacle(0)
        for group in range(groups):
            part = slice(group * outputs, (group + 1) * outputs)
            packed = pack_dense(weight[part], place.row, place.channels, group * inputs, dilation)
            channels = self.folds.get(layer.name) if groups == 1 else None
            if channels is None:
                channels = channel_folds(packed, layer.bias[part], source, demanded, self.mode, self.kernels)
            chosen = channels.panels()
            per_channel = np.repeat(chosen, _kernels.PANEL)
            constants = self._constants(layer, weight[part], part, source, per_channel, demanded.bits)
            operands.append(_kernels.DenseGroup(packed.runs, *packed.panels(chosen, self.kernels.pairs), constants))
            folds += chosen
            obstacles |= Obstacle(int(np.bitwise_or.reduce(channels.obstacles)))
        self.program.dense(x, out, window, operands)
        self._note(layer, "dense", source, tuple(folds), demanded, obstacles)

    def _depthwise(self, layer, x, out, source, weight, window, dilation, demanded: Demand) -> None:
        row = self.placed[layer.inputs[0]].row
        blocks = pack_depthwise(weight[..., 0], row, dilation, depthwise_codes(source, self.mode, self.kernels))
        folds, obstacles = depthwise_folds(blocks, layer.bias, source, demanded, self.mode, self.kernels)
        per_channel = np.repeat(folds, _kernels.CHANNEL_BLOCK)
        constants = self._constants(layer, weight, slice(None), source, per_channel, demanded.bits)
        taps, weights = [block.taps for block in blocks], [block.weights for block in blocks]
        self.program.depthwise(x, out, window, taps, weights, list(folds), constants)
        self._note(layer, "depthwise", source, folds, demanded, obstacles)

    def _reference(self, layer, x, out, source, weight, window, groups: int, policy: Accumulator, reason: str) -> None:
        depth = weight[0].size
        constants = self._constants(layer, weight, slice(None), source, np.zeros(len(weight), np.int64), 32)
        block = 0 if policy.block is None else min(policy.block, depth)
        self.program.reference(
            x, out, list(weight.shape), window, groups, policy.bits, policy.overflow == "saturate",
            min(policy.lanes, depth), block, source.zero_point, weight.ravel(), constants,
        )  # fmt: skip
        self.routes.append(LayerRoute(layer.name, "reference", depth, source.q_max, (), "emulated", reason))

    def _constants(self, layer, weight, channels: slice, source: QParams, folds: Array, bits: int):
        """Padded to the length of `folds`, those of each channel."""
        missing = (0, len(folds) - len(weight))
        sums = np.pad(weight.reshape(len(weight), -1).sum(1, dtype=np.int64), missing)
        bias = np.pad(layer.bias[channels], missing)
        # What the kernels take off the codes comes back; a bias that no wrap precedes needs no addition of its own.
        offsets = np.where(folds == _kernels.EXACT, 0, self.kernels.code_offset(source))
        start = (offsets - source.zero_point) * sums + np.where((folds == 0) | (bits < 32), 0, bias)
        return _kernels.Requantization(
            start=start.astype(np.int32),  # modulo 2^32
            bias=bias,
            multiplier=np.pad(layer.multiplier[channels], missing),
            wrap_shift=32 - bits,
            zero_point=layer.output.zero_point,
            q_max=layer.output.q_max,
            code_offset=self.kernels.code_offset(source),
        )

    def _note(self, layer, kind: str, source: QParams, folds: tuple[int, ...], demanded: Demand, obstacles) -> None:
        reason = reason_of(folds, demanded, obstacles, layer.accumulator, self.mode)
        depth = layer.weight[0].size
        self.routes.append(LayerRoute(layer.name, kind, depth, source.q_max, folds, demanded.claim, reason))


def _value(place: Placement, zero_point: int):
    return _kernels.Value(place.inside, place.height, place.width, place.channels, *place.border, zero_point)


def _window(kernel, stride, padding, dilation):
    return _kernels.Window(*kernel, *stride, *padding, *dilation)


def _quantization(q: QParams):
    return _kernels.Quantization(float(q.scale), q.zero_point, q.q_max)


def _table(source: QParams, output: QParams) -> Array:
    """Every code at other QParams, uint8 [256]."""
    return np.ascontiguousarray(operators.rescale(np.arange(256, dtype=np.uint8), source, output))
