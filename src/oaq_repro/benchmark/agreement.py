"""What results a network has to give, and how far others are from them. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oaq_repro.integer.graph.arithmetic import Array


@dataclass(frozen=True)
class Agreement:
    """Of a variant's outputs with those expected. difference: the largest, as a part of the largest output."""

    equal: bool
    difference: float
    cosine: float


def compare(found: Sequence[Array], expected: Sequence[Array]) -> Agreement:
    """All outputs together; nothing agrees where a shape differs or a value is not finite."""
    if [a.shape for a in found] != [b.shape for b in expected] or not all(np.isfinite(a).all() for a in found):
        return Agreement(False, float("inf"), 0.0)
    a, b = (np.concatenate([array.ravel() for array in arrays]).astype(np.float64) for arrays in (found, expected))
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Agreement(
        equal=bool(np.array_equal(a, b)),
        difference=float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)),
        cosine=float(a @ b) / scale if scale else float(np.array_equal(a, b)),
    )
