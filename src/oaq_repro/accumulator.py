"""The accumulator: one small value that training, evaluation, certificates, kernels and tables refer to.

A layer computes `acc = sum_k (a_k - z) * w_k` over K products. The order of k is (kernel row, kernel
column, input channel), the channel running fastest, within one group: the order of an NHWC kernel.
A policy splits the sum into partial sums, each held in a signed register of `bits` bits:

- whole sum (`lanes=1, block=None`): one partial sum;
- `lanes=L`: L partial sums, the products with `k mod L` equal;
- `block=B`: ceil(K / B) partial sums of B consecutive products, each spilled to 32 bits.

Partial sums are then added in 32 bits. `overflow="wrap"` keeps a partial sum modulo 2^bits (two's
complement). A wrapping register may start at `-z * sum(w)` over its own products, so the *corrected*
partial sum, of `(a - z) * w`, is what has to fit. `overflow="saturate"` clamps a partial sum. Saturating
instructions multiply the raw codes, so the *raw* partial sum, of `a * w`, has to fit, and `-z * sum(w)` is
added in 32 bits afterwards. An output with any partial sum outside the range is an overflow event.

This file imports neither torch nor NumPy: the integer engine reads it too.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from oaq_repro.errors import InputError, SettingsError

MIN_BITS, MAX_BITS = 8, 32


@dataclass(frozen=True)
class Accumulator:
    """Register width and overflow policy of one layer's sum of products. Our choice of fields (see module)."""

    bits: int = 16
    overflow: Literal["wrap", "saturate"] = "wrap"
    lanes: int = 1
    block: int | None = None

    def __post_init__(self) -> None:
        """Reject what no kernel could mean (SettingsError)."""
        if not is_integer(self.bits) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise SettingsError(
                f"accumulator.bits: found {self.bits!r}, expected an integer from {MIN_BITS} to {MAX_BITS}"
            )
        if self.overflow not in ("wrap", "saturate"):
            raise SettingsError(f"accumulator.overflow: found {self.overflow!r}, expected 'wrap' or 'saturate'")
        if not is_integer(self.lanes) or self.lanes < 1:
            raise SettingsError(f"accumulator.lanes: found {self.lanes!r}, expected an integer of at least 1")
        if self.block is not None and (not is_integer(self.block) or self.block < 1):
            raise SettingsError(f"accumulator.block: found {self.block!r}, expected null or an integer of at least 1")
        if self.lanes > 1 and self.block is not None:
            raise SettingsError(f"accumulator: found lanes={self.lanes} with block={self.block}, expected one of them")

    @property
    def minimum(self) -> int:
        """Smallest value a partial sum may have."""
        return -(1 << (self.bits - 1))

    @property
    def maximum(self) -> int:
        """Largest value a partial sum may have."""
        return (1 << (self.bits - 1)) - 1

    @property
    def splits(self) -> bool:
        """Whether the sum is split into partial sums (lanes or blocks)."""
        return self.lanes > 1 or self.block is not None

    @property
    def name(self) -> str:
        """Short name for tables: the name of the policy, or its fields."""
        for name, policy in NAMED.items():
            if policy == self:
                return name
        if self.block is None:
            base = f"int{self.bits}" + (f"_lanes{self.lanes}" if self.lanes > 1 else "")
        else:
            base = f"int{self.bits}_block{self.block}"
        return base + ("_saturate" if self.overflow == "saturate" else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain fields, for configs and records."""
        return asdict(self)

    @staticmethod
    def parse(value: "Accumulator | str | dict[str, Any]") -> "Accumulator":
        """Accept an accumulator, a policy's name, `int<bits>`, or a dict of fields; InputError otherwise."""
        if isinstance(value, Accumulator):
            return value
        if isinstance(value, str):
            if value in NAMED:
                return NAMED[value]
            if value.startswith("int") and value[3:].isdigit():
                return Accumulator(bits=int(value[3:]))
            raise SettingsError(f"accumulator: found {value!r}, expected one of {', '.join(NAMED)}, or int<bits>")
        try:
            return Accumulator(**value)
        except TypeError as error:
            raise InputError(f"accumulator: found {value!r}, expected fields bits, overflow, lanes, block") from error

    def part(self, k: Any) -> Any:
        """Number of the partial sum that product k joins, from 0 on; k: an integer, or an array or tensor of them.

        This is the one definition of how a sum is split (and `make_plan` in csrc/emulate.cpp for the compiled one).
        """
        return k % self.lanes if self.block is None else k // self.block

    def parts(self, depth: int) -> int:
        """How many partial sums a sum of `depth` products has."""
        return min(self.lanes, depth) if self.block is None else -(-depth // self.block)

    def within(self, depth: int) -> "Accumulator":
        """The same split of a sum of `depth` products, without lanes that stay empty and blocks never filled."""
        return replace(self, lanes=min(self.lanes, depth), block=None if self.block is None else min(self.block, depth))

    def with_bits(self, bits: int) -> "Accumulator":
        """The same policy at another width."""
        return replace(self, bits=bits)


def is_integer(value: Any) -> bool:
    """Whether it is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


NAMED: dict[str, Accumulator] = {
    "int32": Accumulator(bits=32),
    "int16": Accumulator(bits=16),
    "int16_lanes8": Accumulator(bits=16, lanes=8),
    "int16_block": Accumulator(bits=16, block=32),
    "pair_saturating": Accumulator(bits=16, overflow="saturate", block=2),
}
