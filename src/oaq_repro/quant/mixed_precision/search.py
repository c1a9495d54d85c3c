"""How the bits of every layer are to be chosen, and which bits cannot overflow, whatever the weights.

The choice is that of HAWQ-V3 (`assignment`, `sensitivity`). That a width has to be certified is ours: codes of so many
bits bound every product, and with it every partial sum of the layer's accumulator.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from oaq_repro.errors import SettingsError
from oaq_repro.fields import BY_CONTENT, Bits, Count, Fraction, Text, Whole
from oaq_repro.quant.bounds import parts
from oaq_repro.quant.layers import QuantLayer

Constraint = Literal["size", "bops", "latency"]
Choice = Literal["best", "most", "random"]


@dataclass(frozen=True)
class SearchConfig:
    """Bits for the weights and the input of every layer but the first, the last and those with bits of their own.

    widths: bits to choose from, ascending. constraint, fraction: the cost is at most `C_low + fraction (C_high -
    C_low)`, C_b being that with b bits everywhere: bytes of weights, bit operations, or the time of the layers in this
    engine's mode `certified`, which `table` has (a file that an earlier run wrote; None: measured now). choice: the
    least sensitive assignment (`best`), or as controls the most sensitive one of those that use the bound up (`most`)
    or the `draw`-th random one of these. certified: only widths at which no weights and inputs whatever can overflow
    the layer's accumulator. vectors: of Hutchinson's estimate, on that many `batches` of training images.
    """

    widths: tuple[Bits, ...] = (4, 8)
    constraint: Constraint = "bops"
    fraction: Fraction = 0.5
    choice: Choice = "best"
    draw: Whole = 0
    certified: bool = False
    vectors: Count = 32
    batches: Count = 4
    table: Annotated[Text | None, BY_CONTENT] = None

    def __post_init__(self) -> None:
        """Of fields that belong together (SettingsError)."""
        if len(self.widths) < 2 or list(self.widths) != sorted(set(self.widths)):
            raise SettingsError(f"widths: found {list(self.widths)}, expected at least two, ascending")
        if self.vectors < 2:
            raise SettingsError(f"vectors: found {self.vectors}, expected at least 2, as the error is estimated too")
        if self.table is not None and self.constraint != "latency":
            raise SettingsError(f"table, constraint: found a file and {self.constraint}, expected it with latency only")
        if self.draw and self.choice != "random":
            raise SettingsError(f"draw, choice: found {self.draw} and {self.choice}, expected 0 unless random")


def cannot_overflow(layer: QuantLayer, bits_weight: int, bits_input: int) -> bool:
    """Whether codes of so many bits cannot leave the layer's accumulator: the largest products of its longest sum."""
    part = parts(layer.weight, layer.accumulator, layer.weight_quantizer.meeting)
    longest = int(torch.bincount(part).max())
    return longest * (2**bits_input - 1) * (2 ** (bits_weight - 1) - 1) <= layer.accumulator.maximum
