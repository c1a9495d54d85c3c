"""Layers as steps of the compiled program: packs weights, chooses routes, writes constants."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oaq_repro import _kernels
from oaq_repro.accumulator import Accumulator
from oaq_repro.integer.engine.context import Compilation, kernel_window
from oaq_repro.integer.engine.explain import LayerRoute, reason_of
from oaq_repro.integer.engine.packing import pack_dense, pack_depthwise
from oaq_repro.integer.engine.routes import (
    Demand,
    Obstacle,
    channel_folds,
    depthwise_codes,
    depthwise_routes,
    scales_within_int32,
)
from oaq_repro.integer.engine.sums import EXACT, WHOLE, Route
from oaq_repro.integer.graph.nodes import Layer

MOST_GROUPS = 1024  # that are packed one by one


def append_layer(layer: Layer, to: Compilation) -> None:
    """Append the layer's step, and its route."""
    step, demanded = _LayerStep(layer, to), to.ordered.demands[layer.name]
    if demanded is None:
        step.emulated(layer.accumulator, f"{layer.accumulator.name} can overflow, and no kernel has it")
    elif not scales_within_int32(layer, to.source(layer), demanded):
        step.emulated(Accumulator(bits=demanded.bits), "its multipliers can leave int32")
    elif layer.depthwise and layer.channel_groups > 1:
        step.depthwise(demanded)
    elif layer.channel_groups > MOST_GROUPS:
        step.emulated(Accumulator(bits=demanded.bits), f"more than {MOST_GROUPS} groups")
    else:
        step.dense(demanded)


@dataclass
class _LayerStep:
    layer: Layer
    to: Compilation

    def __post_init__(self) -> None:
        layer, to = self.layer, self.to
        self.source, self.weight = to.source(layer), layer.kernel_weight
        self.place = to.placed[layer.inputs[0]]
        self.operands, self.table = (to.x(layer), to.target(layer)), to.table(layer)
        self.window = kernel_window(layer.window)

    def dense(self, demanded: Demand) -> None:
        layer, to, groups = self.layer, self.to, self.layer.channel_groups
        outputs, inputs = len(self.weight) // groups, self.weight.shape[3]
        sums: list[Route] = []
        parts, obstacles = [], Obstacle(0)
        for group in range(groups):
            part = slice(group * outputs, (group + 1) * outputs)
            packed = pack_dense(
                self.weight[part], self.place.row, self.place.channels, group * inputs, layer.window.dilation
            )
            channels = to.ordered.folds.get(layer.name) if groups == 1 else None
            if channels is None:
                channels = channel_folds(packed, layer.bias[part], self.source, demanded, to.permits, to.kernels)
            chosen = channels.panels()
            constants = self._constants(part, chosen, _kernels.PANEL, demanded.bits)
            panels = packed.panels(chosen, to.kernels.pairs, channels.apart)
            parts.append(_kernels.DenseGroup(panels, constants))
            sums += chosen
            obstacles |= Obstacle(int(np.bitwise_or.reduce(channels.obstacles)))
        to.program.dense(*self.operands, self.window, parts, self.table)
        self._note("dense", tuple(sums), demanded, obstacles)

    def depthwise(self, demanded: Demand) -> None:
        layer, to = self.layer, self.to
        codes = depthwise_codes(self.source, to.permits, to.kernels)
        blocks = pack_depthwise(self.weight[..., 0], self.place.row, layer.window.dilation, codes)
        sums, obstacles = depthwise_routes(blocks, layer.bias, self.source, demanded, to.permits, to.kernels)
        constants = self._constants(slice(None), sums, _kernels.CHANNEL_BLOCK, demanded.bits)
        taps, weights = [block.taps for block in blocks], [block.weights for block in blocks]
        to.program.depthwise(*self.operands, self.window, taps, weights, list(sums), constants, self.table)
        self._note("depthwise", sums, demanded, obstacles)

    def emulated(self, policy: Accumulator, reason: str) -> None:
        """By the emulator of any accumulator, which is scalar."""
        layer, policy = self.layer, policy.within(self.layer.depth)
        constants = self._constants(slice(None), (WHOLE,), len(self.weight), 32)
        self.to.program.emulate(
            *self.operands, list(self.weight.shape), self.window, layer.channel_groups, policy.bits,
            policy.overflow == "saturate", policy.lanes, policy.block or 0, self.source.zero_point,
            self.weight.ravel(), constants, self.table,
        )  # fmt: skip
        self.to.routes.append(
            LayerRoute(layer.name, "reference", layer.depth, self.source.q_max, (), "emulated", reason)
        )

    def _constants(self, channels: slice, sums: Sequence[Route], width: int, bits: int) -> Any:
        """Of these output channels, padded to `width` for each of `sums`."""
        layer, weight, offset = self.layer, self.weight[channels], self.to.kernels.code_offset(self.source)
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
            multiplier=np.pad(layer.multiplier[channels], missing),
            wrap_shift=32 - bits,
            zero_point=layer.output.zero_point,
            q_max=layer.output.q_max,
            code_offset=offset,
        )

    def _note(self, kind: str, sums: tuple[Route, ...], demanded: Demand, obstacles: Obstacle) -> None:
        layer = self.layer
        reason = reason_of(sums, demanded, obstacles, layer.accumulator, self.to.permits)
        route = LayerRoute(layer.name, kind, layer.depth, self.source.q_max, sums, demanded.claim, reason)
        self.to.routes.append(route)
