"""What a choice of precision per frame gives, and its controls, from the logits of all frames at all widths.

Without the controls a policy's accuracy says little: skipping a frame is a choice, too, so what choosing precisions
adds is seen only beside the same skips at one precision, at equal cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_average_precision

from oaq_repro.results.frame_sections import FrameChoice
from oaq_repro.tasks.video import mean_of_kept, source_cost

SHUFFLES = 20
SKIPPED = 0
"""In the place of bits."""


@dataclass(frozen=True)
class FrameCosts:
    """Of one frame. macs: of the network. bops, ms: by bits. policy_*: what the policy adds to every frame."""

    macs: float
    bops: Mapping[int, float]
    ms: Mapping[int, float] | None
    policy_macs: float
    policy_bops: float
    policy_ms: float | None

    def of(self, frames: Mapping[int, float], policy: bool) -> dict[str, float | None]:
        """Fields of `FrameChoice` for these parts of the frames by bits; policy: whether there is one."""
        kept = {bits: part for bits, part in frames.items() if bits != SKIPPED}
        macs = self.macs * sum(kept.values()) + policy * self.policy_macs
        bops = sum(part * self.bops[bits] for bits, part in kept.items()) + policy * self.policy_bops
        cost = sum(part * source_cost(bits) for bits, part in kept.items()) + policy * self.policy_macs / self.macs
        ms = None
        if self.ms is not None and self.policy_ms is not None:
            ms = sum(part * self.ms[bits] for bits, part in kept.items()) + policy * self.policy_ms
        return {"cost": cost, "macs": macs, "bops": bops, "ms": ms}


@dataclass(frozen=True)
class Held:
    """Held-out clips: logits float32 [N, T, widths, classes], labels int64 [N], the policy's choices int64 [N, T].

    widths: bits in the order of the choices, after which comes skipping. kinds: of frames, int64 [N, T], or None.
    """

    logits: Tensor
    labels: Tensor
    choices: Tensor
    widths: tuple[int, ...]
    kinds: Tensor | None
    costs: FrameCosts

    def all(self, seed: int) -> list[FrameChoice]:
        """The policy and every control. seed: of the shuffled orders."""
        policy = self._row("policy", self.choices)
        uniform = [
            self._row("uniform", torch.full_like(self.choices, i), bits, policy=False)
            for i, bits in enumerate(self.widths)
        ]
        skips = [self._row("skip_only", self.skip_only(i), bits) for i, bits in enumerate(self.widths)]
        found = [policy, *uniform, self._shuffled(seed), *skips, line(skips, policy.cost)]
        return found if self.kinds is None else [*found, self._oracle(policy.cost)]

    def skip_only(self, index: int) -> Tensor:
        """The policy's skips, all other frames at the width of that index."""
        return torch.where(self.choices < len(self.widths), index, self.choices)

    def clips(self, choices: Tensor) -> Tensor:
        """Logits of the clips [N, classes], every frame as chosen."""
        kept = choices < len(self.widths)
        index = choices.clamp(max=len(self.widths) - 1)[..., None, None].expand(-1, -1, 1, self.logits.shape[-1])
        return mean_of_kept(self.logits.gather(2, index)[:, :, 0], kept)

    def metrics(self, choices: Tensor) -> dict[str, float]:
        """`clip_top1` and `clip_map`."""
        outputs = self.clips(choices)
        top1 = (outputs.argmax(1) == self.labels).double().mean()
        precision = multiclass_average_precision(outputs.softmax(1), self.labels, outputs.shape[1])
        return {"clip_top1": float(top1), "clip_map": float(precision)}

    def parts(self, choices: Tensor) -> dict[int, float]:
        """Parts of the frames by bits."""
        counts = torch.bincount(choices.flatten(), minlength=len(self.widths) + 1).tolist()
        return {b: n / choices.numel() for b, n in zip((*self.widths, SKIPPED), counts, strict=True)}

    def _row(self, choice: Any, choices: Tensor, bits: int | None = None, policy: bool = True) -> FrameChoice:
        parts = self.parts(choices)
        return FrameChoice(
            choice=choice, bits=bits, metrics=self.metrics(choices), frames=parts,  # type: ignore[arg-type]
            **self.costs.of(parts, policy),  # type: ignore[arg-type]
        )  # fmt: skip

    def _shuffled(self, seed: int) -> FrameChoice:
        """The mean over several orders, each of all frames of all clips."""
        generator = np.random.default_rng(seed)
        found = [self.metrics(shuffled(self.choices, generator)) for _ in range(SHUFFLES)]
        row = self._row("shuffled", self.choices)
        metrics = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return row.model_copy(update={"metrics": metrics})

    def _oracle(self, cost: float) -> FrameChoice:
        assert self.kinds is not None
        best: FrameChoice | None = None
        for chosen in product(range(len(self.widths) + 1), repeat=int(self.kinds.max()) + 1):
            row = self._row("oracle", torch.tensor(chosen)[self.kinds])
            if row.cost <= cost and (best is None or row.metrics["clip_top1"] > best.metrics["clip_top1"]):
                best = row
        assert best is not None  # to skip all costs least
        return best


def shuffled(choices: Tensor, generator: np.random.Generator) -> Tensor:
    """The same choices in a random order."""
    return choices.flatten()[torch.from_numpy(generator.permutation(choices.numel()))].view_as(choices)


def line(points: Sequence[FrameChoice], cost: float) -> FrameChoice:
    """The straight line between neighbouring points, by cost, at that cost; an end where it is beyond."""
    points = sorted(points, key=lambda point: point.cost)
    cost = min(max(cost, points[0].cost), points[-1].cost)
    for low, high in pairwise(points):
        if cost <= high.cost:
            part = (cost - low.cost) / (high.cost - low.cost) if high.cost > low.cost else 0.0
            break
    else:
        low = high = points[0]
        part = 0.0

    def between(a: float, b: float) -> float:
        return a + part * (b - a)

    metrics = {name: between(value, high.metrics[name]) for name, value in low.metrics.items()}
    ms = None if low.ms is None or high.ms is None else between(low.ms, high.ms)
    return FrameChoice(
        choice="line", metrics=metrics, frames={}, cost=cost, macs=between(low.macs, high.macs),
        bops=between(low.bops, high.bops), ms=ms,
    )  # fmt: skip


def by_kind(choices: Tensor, kinds: Tensor, names: Sequence[str], widths: Sequence[int]) -> dict[str, dict[int, int]]:
    """Frames by kind, then by the bits that were chosen."""
    return {
        name: {bits: int(((kinds == k) & (choices == i)).sum()) for i, bits in enumerate((*widths, SKIPPED))}
        for k, name in enumerate(names)
    }
