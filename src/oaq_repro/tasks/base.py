"""What all tasks share: optimizer, logging, the check of the loss, and learning from a teacher instead of labels.

With `teacher: float` fine-tuning reads no labels: the loss is the distance of the quantized network's outputs to those
of the float parent on the same images (distillation, Hinton et al. 2015, arXiv 1503.02531; for quantization QKD, arXiv
1911.12491; a network as its own teacher, without labels: LLM-QAT, arXiv 2305.17888). What those leave open: the teacher
does not train along, its outputs are the only term of the loss, and it costs one forward pass without gradients.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from oaq_repro.errors import InputError
from oaq_repro.models.network import Network
from oaq_repro.tasks.schedule import Schedule

SMALLEST_VARIANCE = 1e-12  # an output that is the same everywhere has none


class Frozen:
    """A network to learn from or to compare with. No module: neither the optimizer nor a checkpoint sees it."""

    def __init__(self, dense: nn.Module) -> None:
        self.dense = dense.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Any:
        """Its outputs for images float32 [N, C, H, W], on their device."""
        return self.dense.to(images.device).eval()(images)


class Task(pl.LightningModule, ABC):
    """Trains and measures `self.dense`, which may be swapped: float, quantized, or an integer engine.

    The state dict holds the dense part only (`dense.*`). Logged: `loss` and `lr` per step; after each validation
    the task's metrics as fractions, `METRIC` being the headline one.
    `penalty`, of the dense part, is added to the loss where a method sets it.
    Without a `schedule` a task can only be evaluated.
    """

    METRIC: ClassVar[str]

    def __init__(
        self,
        network: Network,
        schedule: Schedule | None,
        classes: tuple[str, ...],
        parent: nn.Module | None = None,
        teacher: Literal["float"] | None = None,
    ) -> None:
        """parent: the float network, frozen from now on; None in its own training.

        teacher: whose outputs training follows, `float`: those of `parent`; None, and without a parent: the labels.
        """
        super().__init__()
        self.parent = None if parent is None else Frozen(parent)
        self.teacher = None if teacher is None else self.parent
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

    def distance(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """How far an output of the dense part is from the teacher's, of the same shape: a scalar.

        Here the mean squared error as a part of the teacher's variance over batch, so that outputs of all sizes count
        alike.
        """
        return mse_loss(outputs, taught) / taught.var(correction=0).clamp(min=SMALLEST_VARIANCE)

    def distillation(self, outputs: Any, images: Tensor) -> Tensor:
        """The mean over the dense part's outputs of their distances to the teacher's on these images."""
        assert self.teacher is not None
        taught = self.teacher(images)
        if isinstance(outputs, Tensor):
            return self.distance(outputs, taught)
        return torch.stack([self.distance(o, t) for o, t in zip(outputs, taught, strict=True)]).mean()

    def forward(self, image: Tensor) -> Any:
        """The dense part: image float32 [N, C, H, W] -> its raw outputs."""
        return self.dense(image)

    def objective(self, images: Tensor, target: Any) -> Tensor:
        """What training makes small, of one batch: the loss to the labels, or the distance to the teacher."""
        outputs = self(images)
        return self.loss(outputs, target) if self.teacher is None else self.distillation(outputs, images)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step; InputError naming epoch, step and learning rate when the loss is not finite."""
        images, target = batch
        loss = self.objective(images, target)
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
