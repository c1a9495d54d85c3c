"""What runs a layer, and why, for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from oaq_repro import _kernels
from oaq_repro.errors import printable


@dataclass(frozen=True)
class LayerRoute:
    """The route of one layer.

    kind: dense, depthwise or reference. depth: products per output. folds: of every panel of 16 or block of 32 output
    channels (csrc/kernels.hpp). claim: `certified` (no input can overflow what it computes), `empirical` (exact unless
    a 16-bit sum overflows, which calibration did not see) or `emulated` (the scalar reference).
    """

    name: str
    kind: str
    depth: int
    q_max: int
    folds: tuple[int, ...]
    claim: str
    reason: str

    @property
    def registers(self) -> str:
        """The folds in words: how many products 16-bit sums take before they go to 32, for what part of the channels.

        A dense kernel keeps two such sums per output and channels may be reordered, so this can be more than the
        certificate's longest block, which is that of one sum in the given order.
        """
        if self.kind == "reference":
            return "scalar reference"
        counts = Counter(self.folds)
        words = []
        for fold in sorted(counts, key=lambda fold: (fold != 0, -fold)):
            share = "" if len(counts) == 1 else f" ({100 * counts[fold] / len(self.folds):.0f} %)"
            words.append(self._in_words(fold) + share)
        return ", ".join(words)

    def _in_words(self, fold: int) -> str:
        if fold == 0:
            return "16 bit"
        if fold == _kernels.EXACT:
            return "32 bit"
        products = 2 * fold * (1 if self.kind == "depthwise" else 2)
        return f"16 bit x {min(products, self.depth)}"


def table(routes: Sequence[LayerRoute], isa: str, mode: str) -> str:
    """One line per layer, aligned."""
    rows = [("layer", "kind", "products", "q_max", "accumulator", "claim", "why")]
    rows += [(printable(r.name), r.kind, str(r.depth), str(r.q_max), r.registers, r.claim, r.reason) for r in routes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    legend = "16 bit x n: n products in 16-bit sums (two per output of a dense layer), then added up in 32 bits"
    return "\n".join([f"engine: {isa} kernels, mode {mode}", *lines, legend])
