"""What the methods share that watch overflow while they train: counting on a batch, now and then."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.quant.overflow import OverflowMeter


@dataclass(frozen=True)
class BatchOverflow:
    """Overflow of one layer on one global batch: differing outputs N_o and the largest partial sum / limit."""

    events: int
    peak: float


class OverflowController(pl.Callback):
    """Every `interval` optimizer steps after `warmup_steps`, counts overflow on the batch and moves the alphas.

    Counts are summed, and peaks maximized, over all ranks, so every rank moves its alphas alike. Batches
    between updates are not counted and cost nothing.
    """

    def __init__(self, interval: int, warmup_steps: int) -> None:
        self.interval, self.warmup_steps = interval, warmup_steps
        self._meters: dict[str, OverflowMeter] = {}

    @abstractmethod
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """Move the alphas. batch_size is global; progress is the part of fine-tuning done, 0 to 1."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Switch the meters on where an update is due."""
        step = trainer.global_step
        starts_step = batch_idx % trainer.accumulate_grad_batches == 0
        if starts_step and step >= self.warmup_steps and (step - self.warmup_steps) % self.interval == 0:
            for name, layer in layers(pl_module.dense).items():
                layer.meter = self._meters[name] = OverflowMeter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Sum the counts over the ranks and let the rule act."""
        if not self._meters:
            return
        overflow, batch_size = self._reduced(trainer, pl_module.device)
        for layer in layers(pl_module.dense).values():
            layer.meter = None
        self._meters = {}
        progress = trainer.global_step / max(1, trainer.estimated_stepping_batches)
        self.update(pl_module.dense, overflow, batch_size, float(progress))
        self._log(pl_module, overflow)

    def _reduced(self, trainer: pl.Trainer, device: torch.device) -> tuple[dict[str, BatchOverflow], int]:
        names = list(self._meters)
        seen = [self._meters[name] for name in names]
        images = len(seen[0].per_image())
        counts = torch.tensor([float(m.total()) for m in seen] + [float(images)], dtype=torch.float64, device=device)
        peaks = torch.tensor([float(m.peak) for m in seen], dtype=torch.float64, device=device)  # type: ignore[arg-type]
        counts = trainer.strategy.reduce(counts, reduce_op="sum")
        peaks = trainer.strategy.reduce(peaks, reduce_op="max")
        total, largest = counts.tolist(), peaks.tolist()
        by_name = {n: BatchOverflow(int(c), p) for n, c, p in zip(names, total, largest, strict=False)}
        return by_name, int(total[-1])

    def _log(self, pl_module: pl.LightningModule, overflow: dict[str, BatchOverflow]) -> None:
        model: QuantizedNetwork = pl_module.dense  # type: ignore[assignment]
        for name, layer in layers(model).items():
            pl_module.log(f"alpha_weight/{name}", layer.weight_quantizer.alpha)
            pl_module.log(f"alpha_activation/{name}", input_quantizer(model, name).alpha)
            pl_module.log(f"overflow/{name}", float(overflow[name].events))
        pl_module.log("overflow", float(sum(o.events for o in overflow.values())), prog_bar=True)
