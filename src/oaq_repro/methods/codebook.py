"""Non-uniform weights from a codebook: powers of two, sums of them, k-means, and pairs (vector quantization).

A weight's code of `quantization.weight_bits` bits stands for an entry of the codebook, which is an int8 number at the
scale of its channel. So the integer network is an ordinary one: a graph holds the entries, the engine multiplies bytes,
and what fewer bits give is memory, not speed. The grid of a channel ends at its largest magnitude.

- `pot`, powers of two (Zhou et al., ICLR 2017, arXiv 1702.03044; as in APoT's equation 5): 0 and `+-2^e`.
- `apot`, additive powers of two (Li et al., ICLR 2020, arXiv 1909.13144): sums of one term of each of the sets in
  APOT_EXPONENTS, those of the authors' code (github.com/yhhhli/APoT_Quantization), where one of the bits is the sign.
  With 3 bits these are the powers of two.
- `kmeans` (Han et al., ICLR 2016, arXiv 1510.00149): the centres of the layer's weights, in units of each channel's
  largest.
- `pairs`: weights in twos along a filter, each with its following one; `2^(2 bits)` centres in the plane, so the bits
  are those of a weight (product quantization, Gong et al., 2014, arXiv 1412.6115).

What the sources leave open and what is chosen here:

- Entries are the smallest integers that have the codebook's ratios (1 to 64 for powers of two of 4 bits), as the sums
  are to fit their accumulator; centres are rounded to 127ths. Where int8 cannot hold a codebook it is refused.
- A range mapping factor alpha divides the entries, which are rounded once more.
- Centres are those of the float weights and stay; training moves weights, straight through, from entry to entry.
- The range is the present largest magnitude (APoT: learned, after weights are normalized).
"""

from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.methods.base import Method
from oaq_repro.quant.mixed_precision.search import SearchConfig
from oaq_repro.quant.numerics import QParams, rowwise, spread
from oaq_repro.quant.quantizers import WeightQuantizer

Codebook = Literal["pot", "apot", "kmeans", "pairs"]
BITS = {"pot": (2, 4), "apot": (3, 6), "kmeans": (2, 8), "pairs": (2, 4)}
"""Least and most, sign included. Above, int8 does not hold the powers, and fitting pairs takes long."""
APOT_EXPONENTS = {
    3: ((1, 2, 3),),
    4: ((1, 2, 4), (3,)),
    5: ((1, 3, 5), (2, 4, 6)),
    6: ((1, 3, 6), (2, 4, 7), (5,)),
}
"""By bits: each set's terms are 0 and `2^-e`."""
FINEST = 127
"""Steps that a channel's largest magnitude spans where entries are fitted."""
FITTED = 1 << 16
"""Largest number of a layer's weights, or pairs, that centres are fitted to."""
AT_ONCE = 1 << 24
"""Distances between pairs and entries that are held in memory."""


@dataclass
class CodebookMethod(Method):
    """INT8 training, or calibration alone, with weights from a codebook."""

    codebook: Codebook = "kmeans"
    search: SearchConfig | None = field(init=False, default=None)  # its sensitivities are those of uniform grids
    sees_accumulator: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = False  # not every codebook has one

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """Entries of the codebook."""
        return CodebookWeight(bits, per_channel, self.codebook)


def power_magnitudes(codebook: Codebook, bits: int) -> list[int]:
    """Magnitudes of `pot` and `apot`, from 0, as the smallest integers with these ratios."""
    if codebook == "pot":
        return [0, *(2**e for e in range(2 ** (bits - 1) - 1))]
    exponents = APOT_EXPONENTS[bits]
    unit = 2 ** max(map(max, exponents))
    return sorted(sum(terms) for terms in product(*([0, *(unit // 2**e for e in found)] for found in exponents)))


class CodebookWeight(WeightQuantizer):
    """int8 quantizer of entries. Buffer entries: float32, integer-valued, [n] ascending or [n, 2]."""

    entries: Tensor
    top: int = FINEST

    def __init__(self, bits: int, per_channel: bool, codebook: Codebook) -> None:
        """Raises InputError for bits for which there is no such codebook."""
        least, most = BITS[codebook]
        if not least <= bits <= most:
            raise InputError(
                f"quantization.weight_bits: found {bits}, expected {least} to {most} with method.codebook={codebook}"
            )
        super().__init__(bits, per_channel)
        self.codebook = codebook
        if self.fitted:
            shape = (2 ** (2 * bits), 2) if codebook == "pairs" else (2**bits,)
            self.register_buffer("entries", torch.zeros(shape))
        else:
            magnitudes = power_magnitudes(codebook, bits)
            both = [*(-m for m in reversed(magnitudes[1:])), *magnitudes]
            self.register_buffer("entries", torch.tensor(both, dtype=torch.float32))
            self.top = magnitudes[-1]
        self.steps = self.top

    @property
    def fitted(self) -> bool:
        """Whether entries are found from the weights, and so have to be kept."""
        return self.codebook in ("kmeans", "pairs")

    @property
    def largest(self) -> int:
        """Of the entries; of fitted ones at most."""
        return self.top

    @property
    def grid_bits(self) -> int:
        """Of the largest entry, with its sign."""
        return self.top.bit_length() + 1

    def table_bytes(self, weight: Tensor) -> float:
        """A byte per number of a fitted codebook."""
        return float(self.entries.numel()) if self.fitted else 0.0

    def attach(self, weight: Tensor) -> None:
        """Fit the entries."""
        super().attach(weight)
        if self.fitted:
            steps = weight.detach().cpu() / rowwise(self.scale(weight.detach()).cpu(), weight)
            values = steps.flatten(1)
            points = in_pairs(values).reshape(-1, 2) if self.codebook == "pairs" else values.reshape(-1, 1)
            found = centres(spread(points, FITTED).double().numpy(), len(self.entries))
            self.entries.copy_(torch.from_numpy(found).round().reshape(self.entries.shape))

    def codes(self, weight: Tensor, scale: Tensor, x: QParams, accumulator: Accumulator) -> Tensor:
        """The nearest entries; the gradient passes straight through."""
        steps = weight / rowwise(scale, weight)
        entries = torch.round(self.entries / rowwise(self.alpha, self.entries[None]))
        nearest = nearest_pairs if self.codebook == "pairs" else nearest_numbers
        found = nearest(steps.detach().flatten(1), entries).reshape(weight.shape)
        return found + (steps - steps.detach())  # the second term is an exact zero


def centres(points: np.ndarray, count: int) -> np.ndarray:
    """Centres of points float64 [N, d], [count, d] in ascending order of the first coordinate (Lloyd's algorithm).

    Numbers start at even distances from the least to the largest (Han et al., 2016, section 3.2), pairs by k-means++.
    Where there are no more than `count` different points these are the centres, the last one as often as needed.
    """
    found = np.unique(points, axis=0)
    if len(found) > count:
        start = np.linspace(found[0], found[-1], count) if points.shape[1] == 1 else "k-means++"
        found = KMeans(count, init=start, n_init=1, tol=0.0, random_state=0).fit(points).cluster_centers_
        found = found[np.lexsort(found.T[::-1])]
    return np.concatenate([found, np.repeat(found[-1:], count - len(found), axis=0)])


def nearest_numbers(rows: Tensor, entries: Tensor) -> Tensor:
    """To every number of rows [O, K] the nearest of its row's entries [O, n], ascending; of two the lower."""
    middles = (entries[:, 1:] + entries[:, :-1]) / 2
    return entries.gather(1, torch.searchsorted(middles.contiguous(), rows.contiguous()))


def in_pairs(rows: Tensor) -> Tensor:
    """Rows [O, K] as [O, ceil(K / 2), 2]; a row of odd length ends with a 0."""
    return F.pad(rows, (0, rows.shape[1] % 2)).reshape(len(rows), -1, 2)


def nearest_pairs(rows: Tensor, entries: Tensor) -> Tensor:
    """To every pair along rows [O, K] the nearest of its row's entries [O, n, 2]; the result is [O, K] again."""
    pairs = in_pairs(rows)
    size = max(1, AT_ONCE // (pairs.shape[1] * entries.shape[1]))
    found = []
    for some, own in zip(pairs.split(size), entries.split(size), strict=True):
        index = torch.cdist(some, own, compute_mode="donot_use_mm_for_euclid_dist").argmin(2)
        found.append(own.gather(1, index[:, :, None].expand(-1, -1, 2)))
    return torch.cat(found).flatten(1)[:, : rows.shape[1]]
