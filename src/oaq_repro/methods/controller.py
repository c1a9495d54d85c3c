"""What the methods share that watch overflow while they train: counting on a batch, now and then."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.quant.overflow import OverflowMeter


@dataclass(frozen=True, eq=False)
class BatchOverflow:
    """Overflow of one layer on one global batch, by output channel, float64 [O] each.

    events: differing outputs N_o. peaks: the largest partial sum as a multiple of the limit.
    """

    events: Tensor
    peaks: Tensor

    @property
    def total(self) -> int:
        """Differing outputs of all channels."""
        return int(self.events.sum())

    @property
    def peak(self) -> float:
        """The largest partial sum of all channels as a multiple of the limit."""
        return float(self.peaks.max())


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
            self.watch(pl_module.dense)

    def watch(self, model: QuantizedNetwork) -> None:
        """Switch the meters on."""
        for name, layer in layers(model).items():
            layer.meter = self._meters[name] = OverflowMeter()

    def unwatch(self, model: QuantizedNetwork) -> dict[str, OverflowMeter]:
        """Switch them off; what they have counted."""
        meters, self._meters = self._meters, {}
        for layer in layers(model).values():
            layer.meter = None
        return meters

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Sum the counts over the ranks and let the rule act."""
        if not self._meters:
            return
        overflow, batch_size = self._reduced(trainer, pl_module.device)
        self.unwatch(pl_module.dense)
        progress = trainer.global_step / max(1, trainer.estimated_stepping_batches)
        self.update(pl_module.dense, overflow, batch_size, float(progress))
        self._log(pl_module, overflow)

    def _reduced(self, trainer: pl.Trainer, device: torch.device) -> tuple[dict[str, BatchOverflow], int]:
        names, seen = list(self._meters), list(self._meters.values())
        images = torch.tensor([float(len(seen[0].per_image()))], dtype=torch.float64, device=device)
        events, peaks = [m.channel_events for m in seen], [m.peaks for m in seen]
        counts = torch.cat([*(e.double() for e in events if e is not None), images])
        largest = torch.cat([p for p in peaks if p is not None])
        counts = trainer.strategy.reduce(counts, reduce_op="sum").cpu()
        largest = trainer.strategy.reduce(largest, reduce_op="max").cpu()
        sizes = [len(p) for p in peaks if p is not None]
        parts = zip(counts[:-1].split(sizes), largest.split(sizes), strict=True)
        return {name: BatchOverflow(*part) for name, part in zip(names, parts, strict=True)}, int(counts[-1])

    def _log(self, pl_module: pl.LightningModule, overflow: dict[str, BatchOverflow]) -> None:
        model: QuantizedNetwork = pl_module.dense  # type: ignore[assignment]
        for name, layer in layers(model).items():
            weights = layer.weight_quantizer
            pl_module.log(f"alpha_weight/{name}", weights.alpha.mean())
            if weights.granularity == "channel":
                pl_module.log(f"alpha_weight_min/{name}", weights.alpha.min())
                pl_module.log(f"alpha_weight_max/{name}", weights.alpha.max())
            pl_module.log(f"alpha_activation/{name}", input_quantizer(model, name).alpha)
            pl_module.log(f"overflow/{name}", float(overflow[name].total))
        pl_module.log("overflow", float(sum(o.total for o in overflow.values())), prog_bar=True)
