"""How one stage of training goes: length, optimizer, learning rate over the steps. torch's classes, one dataclass."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
)

from oaq_repro.errors import SettingsError
from oaq_repro.fields import NO_SCIENCE, Count, Fraction, InnerFraction, NonNegative, OpenFraction, Positive, Whole


@dataclass
class Schedule:
    """One stage of training; the fields of the sections `float`, `prepare` and `finetune` of conf/schedule/*.yaml.

    epochs | steps: length, exactly one of them; `steps` for data sets of which an epoch is a few batches.
    optimizer: "sgd" with `momentum` (and Nesterov's form with `nesterov`), "adamw", or "adam", whose weight decay joins
        the gradient.
    lr: learning rate after `warmup_steps` linear steps. `decay`: what follows, over the other steps: cosine or linear
        to 0, poly ((1 - t)^power), constant, multistep (times `gamma` at the fractions `milestones` of all steps).
    weight_decay: of matrices and convolution kernels only; biases, batch norm and quantizer ranges have none.
    grad_clip: largest norm of the gradient, or None. validations: how many times the held-out data are evaluated.
    Raises SettingsError for two lengths or none.
    """

    lr: Positive
    epochs: Count | None = None
    steps: Count | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: OpenFraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    warmup_steps: Whole = 0
    decay: Literal["cosine", "linear", "poly", "constant", "multistep"] = "cosine"
    power: Positive = 0.9
    milestones: tuple[InnerFraction, ...] = (0.6, 0.85)
    gamma: Fraction = 0.1
    grad_clip: Positive | None = None
    validations: Count = 5

    def __post_init__(self) -> None:
        """Exactly one length."""
        if (self.epochs is None) == (self.steps is None):
            raise SettingsError(
                f"epochs, steps: found {self.epochs} and {self.steps}, expected a number for exactly one of them"
            )

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimizer steps of the whole stage."""
        return self.steps if self.steps is not None else int(self.epochs or 0) * batches_per_epoch

    def trainer_fields(self, batches_per_epoch: int) -> dict[str, Any]:
        """Arguments of `pytorch_lightning.Trainer` that make it run this stage and validate `validations` times."""
        total = self.total_steps(batches_per_epoch)
        every = -(-total // min(self.validations, total))
        return {
            "max_steps": total,
            "max_epochs": -1,
            "val_check_interval": every,
            "check_val_every_n_epoch": None,
            "gradient_clip_val": self.grad_clip,
        }

    def configure(self, parameters: Iterable[nn.Parameter], total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimizer and per-step scheduler over `total_steps` steps, for the parameters that need a gradient."""
        wanted = [p for p in parameters if p.requires_grad]
        groups = [
            {"params": [p for p in wanted if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        optimizer: Optimizer
        if self.optimizer == "sgd":
            optimizer = SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)
        else:
            optimizer = (Adam if self.optimizer == "adam" else AdamW)(groups, lr=self.lr)
        warmup = min(self.warmup_steps, total_steps - 1)
        main = self._decay(optimizer, total_steps - warmup, warmup)
        if warmup < 1:
            return optimizer, main
        rising = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        return optimizer, SequentialLR(optimizer, [rising, main], milestones=[warmup])

    def _decay(self, optimizer: Optimizer, steps: int, before: int) -> LRScheduler:
        match self.decay:
            case "cosine":
                return CosineAnnealingLR(optimizer, T_max=steps)
            case "linear":
                return PolynomialLR(optimizer, total_iters=steps, power=1.0)
            case "poly":
                return PolynomialLR(optimizer, total_iters=steps, power=self.power)
            case "multistep":
                marks = [max(1, round(m * (steps + before)) - before) for m in self.milestones]
                return MultiStepLR(optimizer, marks, gamma=self.gamma)
            case _:
                return ConstantLR(optimizer, factor=1.0)


@dataclass
class Schedules:
    """The section `schedule`: of the float parent and of fine-tuning, None: no such training. prepare: of the stage
    before folding, for methods that have one; it counts in the identity of their runs only.

    controller_interval: what `method.interval` refers to, so that each data set brings its own.
    """

    float: Schedule | None = None
    prepare: Schedule | None = None
    finetune: Schedule | None = None
    controller_interval: Annotated[Count, NO_SCIENCE] = 50
