"""Some channels of a value, in any order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array, QParams
from oaq_repro.integer.graph.nodes.base import LARGEST_PARAMETER, PassingNode, Shape


@dataclass(frozen=True, eq=False)
class Select(PassingNode):
    """Channel i of the value is channel `channels[i]` of the input, int64 [C']; codes and QParams unchanged.

    Slices and splits along the channels and channel shuffles are selections. A channel may be taken twice.
    """

    channels: np.ndarray

    def check_fields(self) -> None:
        super().check_fields()
        self.expect_array("channels", np.int64, (None,))
        if self.channels.min() < 0 or len(self.channels) > LARGEST_PARAMETER:
            found = f"{len(self.channels)} from {self.channels.min()} on"
            raise InputError(f"graph node {self.name!r}: channels: found {found}, expected at most 2^20, from 0 on")

    def output_shape(self, inputs: Sequence[Shape]) -> Shape:
        if inputs[0][0] <= self.channels.max():
            raise self.misfit(inputs, f"at least {self.channels.max() + 1} channels")
        return (len(self.channels), *inputs[0][1:])

    def reference(self, inputs: Sequence[Array], sources: Sequence[QParams]) -> Array:
        return inputs[0].take(self.channels, axis=-1)

    def channel_sources(self, inputs: Sequence[Shape]) -> tuple[str, ...]:
        return ()

    def permuted(self, before: Array | None, after: Array | None) -> Self:
        channels = self.channels if before is None else np.argsort(before)[self.channels]
        return replace(self, channels=channels if after is None else channels[after])
