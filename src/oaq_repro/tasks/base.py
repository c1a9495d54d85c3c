"""What all tasks share: optimizer, logging, the check of the loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from oaq_repro.errors import InputError
from oaq_repro.models.network import Network
from oaq_repro.tasks.schedule import Schedule


class Task(pl.LightningModule, ABC):
    """Trains and measures `self.dense`, which may be swapped: float, quantized, or an integer engine.

    The state dict holds the dense part only (`dense.*`). Logged: `loss` and `lr` per step; after each validation
    the task's metrics as fractions, `METRIC` being the headline one.
    `penalty`, of the dense part, is added to the loss where a method sets it.
    Without a `schedule` a task can only be evaluated.
    """

    METRIC: ClassVar[str]

    def __init__(self, network: Network, schedule: Schedule | None, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.dense = network.dense
        self.codec = network.codec
        self.schedule = schedule
        self.penalty: Callable[[Any], Tensor | float] | None = None
        self.classes = tuple(str(c) for c in classes)

    @abstractmethod
    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Scalar loss of the dense part's outputs."""

    @abstractmethod
    def update(self, outputs: Any, target: Any) -> None:
        """Add one held-out batch to the metrics."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Metrics by name over everything since the last `compute`, which is forgotten then."""

    def forward(self, image: Tensor) -> Any:
        """The dense part: image float32 [N, C, H, W] -> its raw outputs."""
        return self.dense(image)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step; InputError naming epoch, step and learning rate when the loss is not finite."""
        images, target = batch
        loss = self.loss(self(images), target)
        if self.penalty is not None:
            loss = loss + self.penalty(self.dense)
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        if not torch.isfinite(loss):
            raise InputError(
                f"training: loss is {loss.item()} in epoch {self.current_epoch}, step {self.global_step}, at learning "
                f"rate {lr:g}, expected a finite number; lower schedule.<stage>.lr, or set warmup_steps or grad_clip"
            )
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        self.log("lr", lr, batch_size=len(images))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a held-out batch to the metrics."""
        images, target = batch
        self.update(self(images), target)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        for name, value in self.compute().items():
            self.log(name, value.float(), prog_bar=name == self.METRIC)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """What the schedule says, over the trainer's number of steps."""
        if self.schedule is None:
            raise InputError("schedule: found null, expected fields of Schedule: this task is to be trained")
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = self.schedule.configure(self.dense.parameters(), total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
