"""Layers as steps of the compiled program: packs weights, chooses routes, writes constants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.integer.engine.context import Compilation, kernel_window
from oaq_repro.integer.engine.explain import LayerRoute, reason_of
from oaq_repro.integer.engine.multipliers import of_layer
from oaq_repro.integer.engine.packing import pack_dense, pack_depthwise
from oaq_repro.integer.engine.routes import (
    Demand,
    Obstacle,
    channel_folds,
    depthwise_routes,
    scales_within_int32,
)
from oaq_repro.integer.engine.sums import EXACT, WHOLE, Route
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.graph.nodes import Layer, Part

Found = tuple[Sequence[Route], Obstacle]
MOST_GROUPS = 1024  # that are packed one by one


def append_layer(layer: Layer, to: Compilation) -> None:
    """Append the layer's step, and its route."""
    step, demanded = _LayerStep(layer, to), to.ordered.demands[layer.name]
    if demanded is None:
        step.emulated(layer.accumulator, f"{layer.accumulator.name} can overflow, and no kernel has it")
    elif not scales_within_int32(layer, to.source(layer), demanded):
        step.emulated(Accumulator(bits=demanded.bits), "its multipliers can leave int32")
    elif layer.depthwise and layer.channel_groups > 1:
        step.summed("depthwise", step.depthwise, demanded)
    elif layer.channel_groups > MOST_GROUPS:
        step.emulated(Accumulator(bits=demanded.bits), f"more than {MOST_GROUPS} groups")
    else:
        step.summed("dense", step.dense, demanded)


@dataclass
class _LayerStep:
    """Every part of the layer is a step of the program; they are joined to one."""

    layer: Layer
    to: Compilation

    def __post_init__(self) -> None:
        layer, to = self.layer, self.to
        self.source = to.source(layer)
        self.place = to.placed[layer.inputs[0]]
        self.operands, self.table = (to.x(layer), to.values[to.made(layer)]), to.table(layer)
        sizes = self.operands[1].height, self.operands[1].width
        self.parts = [p for p in layer.parts if p.first[0] < sizes[0] and p.first[1] < sizes[1]]

    def summed(self, kind: str, step: Callable[[Part, Demand], Found], demanded: Demand) -> None:
        """By kernels. `step` appends that of a part; returns the routes of its sums, and what keeps them from WHOLE."""
        sums: list[Route] = []
        obstacles = Obstacle(0)
        for part in self.parts:
            found, against = step(part, demanded)
            sums += found
            obstacles |= against
        self.to.program.join(len(self.parts))
        layer = self.layer
        reason = reason_of(sums, demanded, obstacles, layer.accumulator, self.to.permits)
        self._routed(kind, sums, demanded.claim, reason)

    def dense(self, part: Part, demanded: Demand) -> Found:
        """Every output reads all channels of its group."""
        layer, to, groups = self.layer, self.to, self.layer.channel_groups
        weights = layer.part_weight(part)
        outputs, inputs = len(weights) // groups, weights.shape[3]
        sums: list[Route] = []
        made, obstacles = [], Obstacle(0)
        for group in range(groups):
            rows = slice(group * outputs, (group + 1) * outputs)
            packed = pack_dense(
                weights[rows], self.place.row, self.place.channels, group * inputs, part.window.dilation
            )
            channels = to.ordered.folds.get(layer.name) if groups == 1 else None
            if channels is None:
                channels = channel_folds(packed, layer.bias[rows], self.source, demanded, to.permits, to.kernels)
            chosen = channels.panels()
            constants = self._constants(weights[rows], rows, chosen, _kernels.PANEL, demanded.bits)
            panels = packed.panels(chosen, to.kernels.pairs, channels.apart)
            made.append(_kernels.DenseGroup(panels, constants))
            sums += chosen
            obstacles |= Obstacle(int(np.bitwise_or.reduce(channels.obstacles)))
        if to.made(layer) in to.strips:
            to.waiting[to.made(layer)] = self.operands[0], kernel_window(part.window), made, self.table
            to.program.done()  # with its reader
        else:
            to.program.dense(*self.operands, kernel_window(part.window), made, _places(part), self.table)
        return sums, obstacles

    def depthwise(self, part: Part, demanded: Demand) -> Found:
        """Every output reads a channel of its own."""
        layer, to, weights = self.layer, self.to, self.layer.part_weight(part)
        offset = to.kernels.code_offset(self.source)
        codes = (-offset, self.source.q_max - offset)
        blocks = pack_depthwise(weights[..., 0], self.place.row, part.window.dilation, codes)
        sums, obstacles = depthwise_routes(blocks, layer.bias, self.source, demanded, to.permits, to.kernels)
        blocks = [block.two_by_two() if route == EXACT else block for block, route in zip(blocks, sums, strict=True)]
        constants = self._constants(weights, slice(None), sums, _kernels.CHANNEL_BLOCK, demanded.bits)
        taps, packed = [block.taps for block in blocks], [block.weights for block in blocks]
        own = kernel_window(part.window), taps, packed, list(sums), constants
        if (strips := to.strips.get(layer.inputs[0])) is not None:
            x, *dense = to.waiting.pop(layer.inputs[0])
            to.program.dense_depthwise(x, self.operands[0], strips.height, self.operands[1], *dense, *own, self.table)
        else:
            to.program.depthwise(*self.operands, *own, _places(part), self.table)
        return sums, obstacles

    def emulated(self, policy: Accumulator, reason: str) -> None:
        """By the emulator of any accumulator, which is scalar."""
        layer, policy = self.layer, policy.within(self.layer.depth)
        for part in self.parts:
            weights = layer.part_weight(part)
            constants = self._constants(weights, slice(None), (WHOLE,), len(weights), 32)
            window = kernel_window(replace(part.window, padding=part.padding))
            top, left = part.window.padding[:2]
            self.to.program.emulate(
                *self.operands, list(weights.shape), window, layer.channel_groups, policy.bits,
                policy.overflow == "saturate", policy.lanes, policy.block or 0, self.source.zero_point,
                weights.ravel(), constants, _places(part), [max(-top, 0), max(-left, 0)],
                self.table,
            )  # fmt: skip
        self.to.program.join(len(self.parts))
        self._routed("reference", (), "emulated", reason)

    def _routed(self, kind: str, sums: Sequence[Route], claim: str, reason: str) -> None:
        layer, q_max = self.layer, self.source.q_max
        strips = self.to.strips.get(self.to.made(layer))
        step = layer.name if strips is None else strips.depthwise
        route = LayerRoute(layer.name, kind, layer.depth, q_max, tuple(sums), claim, reason, layer.requantization, step)
        self.to.routes.append(route)

    def _constants(self, weight: Array, channels: slice, sums: Sequence[Route], width: int, bits: int) -> Any:
        """Of these output channels with weights [O, ...], padded to `width` for each of `sums`."""
        layer, offset = self.layer, self.to.kernels.code_offset(self.source)
        missing = (0, width * len(sums) - len(weight))
        totals = np.pad(weight.reshape(len(weight), -1).sum(1, dtype=np.int64), missing)
        bias = np.pad(layer.bias[channels], missing)
        # What the kernels take off the codes comes back; a bias that no wrap precedes needs no addition of its own.
        exact, whole = (np.repeat([route == each for route in sums], width) for each in (EXACT, WHOLE))
        offsets = np.where(exact, 0, offset)
        start = (offsets - self.source.zero_point) * totals + np.where(whole | (bits < 32), 0, bias)
        return _kernels.LayerConstants(
            start=start.astype(np.int32),  # modulo 2^32
            bias=bias,
            multipliers=of_layer(layer, self.source, channels, len(bias)),
            wrap_shift=32 - bits,
            zero_point=layer.output.zero_point,
            q_max=layer.output.q_max,
            code_offset=offset,
        )


def _places(part: Part) -> Any:
    return _kernels.Places(*part.first, *part.step)
