"""Clips: the network computes frames, and a clip's logits are the mean over its frames.

So the network stays one of images, and all that is known of those holds: quantization, certificates, the engine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gumbel_softmax
from torchmetrics.classification import MulticlassAveragePrecision

from oaq_repro.models.network import Network
from oaq_repro.tasks.classification import ClassificationTask
from oaq_repro.tasks.schedule import Schedule

FrameNetwork = Callable[[Tensor], Tensor]
"""Frames float32 [N, C, H, W] -> logits float32 [N, classes]."""


def mean_of_kept(logits: Tensor, kept: Tensor) -> Tensor:
    """Logits of frames [N, T, classes], and what of each counts, [N, T] -> logits of clips [N, classes].

    The mean over kept frames; zeros where a clip has none.
    """
    weights = kept.to(logits.dtype)
    return (logits * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1.0)


def of_frames(network: FrameNetwork, clips: Tensor) -> Tensor:
    """Logits [N, T, classes] of the frames of clips [N, T, C, H, W]."""
    return network(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])


class ClipNetwork(nn.Module):
    """Clips float32 [N, T, C, H, W] -> logits [N, classes], by a network of images."""

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, clips: Tensor) -> Tensor:
        """The mean over the frames."""
        return of_frames(self.dense, clips).mean(1)


class VideoTask(ClassificationTask):
    """Batches: clips float32 [N, T, C, H, W], labels int64 [N]; the network gets their frames.

    Metrics: `clip_top1`, the fraction of clips that are right; `clip_map`, the mean over the classes of the average
    precision of their scores over all clips (not COCO's `map`); `agreement` as in `ClassificationTask`.
    """

    METRIC = "clip_top1"

    def __init__(
        self,
        network: Network,
        schedule: Schedule | None,
        classes: tuple[str, ...],
        parent: nn.Module | None = None,
        **common: Any,
    ) -> None:
        super().__init__(network, schedule, classes, parent=None if parent is None else ClipNetwork(parent), **common)
        self.average_precision = MulticlassAveragePrecision(num_classes=len(self.classes))

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of the clips."""
        return of_frames(self.dense, clips).mean(1)

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Count the right ones, and keep the scores."""
        super().update(outputs, target)
        self.average_precision.update(outputs.softmax(1), target)

    def compute(self) -> dict[str, Tensor]:
        """`clip_top1`, `clip_map`, and `agreement` where there is a parent."""
        values = super().compute()
        metrics = {"clip_top1": values.pop("top1"), "clip_map": self.average_precision.compute()}
        self.average_precision.reset()
        return metrics | values


class AnyPrecisionTask(VideoTask):
    """Stage 1 of VideoIQ: trains a network at all widths, by labels and by the parent's logits of the same clips.

    set_width: brings the network to a width. At the end of a step it is at the first one.
    """

    def __init__(
        self,
        *args: Any,
        widths: Sequence[int],
        set_width: Callable[[nn.Module, int], None],
        distillation: float,
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        self.widths, self.set_width, self.distillation_weight = tuple(widths), set_width, distillation

    def objective(self, images: Tensor, target: Tensor) -> Tensor:
        """The mean over the widths of cross entropy and distillation."""
        losses = []
        for bits in reversed(self.widths):
            self.set_width(self.dense, bits)
            outputs = self(images)
            losses.append(self.loss(outputs, target))
            if self.distillation_weight and self.parent is not None:
                losses[-1] = losses[-1] + self.distillation_weight * self.distance(outputs, self.parent(images))
        return torch.stack(losses).mean()


class PolicyTask(VideoTask):
    """Stage 2 of VideoIQ: `dense` is the policy; networks of frames, by their bits, are frozen.

    Choices are the widths in their order, then to skip. weights: `cost_weight`, `balance_weight`, `entropy_weight`,
    `own_weight` (`methods.videoiq.PolicyConfig`). tau: of Gumbel's softmax, by epoch.
    """

    def __init__(
        self,
        *args: Any,
        frames: Mapping[int, FrameNetwork],
        weights: Mapping[str, float],
        tau: Callable[[int], float],
        **common: Any,
    ) -> None:
        super().__init__(*args, **common)
        self.frames, self.weights, self.tau = dict(frames), dict(weights), tau
        self.costs = torch.tensor([*(source_cost(bits) for bits in self.frames), 0.0])

    def on_fit_start(self) -> None:
        """The frozen networks follow the policy to its device."""
        self._move(self.device)

    def on_fit_end(self) -> None:
        """And come back."""
        self._move(torch.device("cpu"))

    def _move(self, device: torch.device) -> None:
        for network in self.frames.values():
            if isinstance(network, nn.Module):
                network.to(device)

    def objective(self, images: Tensor, target: Tensor) -> Tensor:
        """As `objective_at`, in the present epoch."""
        return self.objective_at(images, target, self.current_epoch)

    def objective_at(self, images: Tensor, target: Tensor, epoch: int) -> Tensor:
        """Cross entropy of the clips under hard samples, cost, balance, entropy, and the policy's own cross entropy."""
        scores, own = self.dense(images)
        chosen = gumbel_softmax(scores, tau=self.tau(epoch), hard=True)
        with torch.no_grad():
            logits = torch.stack([of_frames(network, images) for network in self.frames.values()], 2)
        kept = chosen[..., :-1]
        mixed = (logits * kept[..., None]).sum((1, 2)) / kept.sum((1, 2))[:, None].clamp(min=1.0)
        share = chosen.mean((0, 1))
        entropy = torch.special.entr(scores.softmax(-1)).sum(-1).mean()
        return (
            self.loss(mixed, target)
            + self.weights["own_weight"] * cross_entropy(own, target)
            + self.weights["cost_weight"] * (share * self.costs.to(share)).sum()
            + self.weights["balance_weight"] * (share - 1 / len(share)).square().sum()
            - self.weights["entropy_weight"] * entropy
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of the clips: every frame by the network that the policy chose, and by no other."""
        choices = self.dense.choices(clips)  # type: ignore[operator]
        return routed(self.frames, clips, choices, len(self.classes))


def routed(frames: Mapping[int, FrameNetwork], clips: Tensor, choices: Tensor, classes: int) -> Tensor:
    """Logits [N, classes] of clips whose frames are computed as chosen, int64 [N, T]: see `PolicyTask`."""
    flat, chosen = clips.flatten(0, 1), choices.flatten()
    logits = flat.new_zeros(len(flat), classes)
    for index, network in enumerate(frames.values()):
        where = torch.nonzero(chosen == index).flatten()
        if len(where):
            logits[where] = network(flat[where])
    return mean_of_kept(logits.unflatten(0, choices.shape), choices < len(frames))


def source_cost(bits: int) -> float:
    """Cost of a frame by VideoIQ's rule, as a part of one at 8 bits: `min(b, 8)^2 / 64`, whatever the network."""
    return min(bits, 8) ** 2 / 64
