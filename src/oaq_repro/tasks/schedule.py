"""How one stage of training goes: length, optimizer, learning rate over the steps. torch's classes, one dataclass."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    PolynomialLR,
    SequentialLR,
)

from oaq_repro.errors import InputError

OPTIMIZERS = ("sgd", "adamw")
DECAYS = ("cosine", "linear", "poly", "constant", "multistep")


@dataclass
class Schedule:
    """One stage of training; the fields of the sections `float` and `finetune` of conf/schedule/*.yaml.

    epochs | steps: length, exactly one of them; `steps` for data sets of which an epoch is a few batches.
    optimizer: "sgd" with `momentum` (and Nesterov's form with `nesterov`), or "adamw".
    lr: learning rate after `warmup_steps` linear steps. `decay`: what follows, over the other steps: cosine or linear
        to 0, poly ((1 - t)^power), constant, multistep (times `gamma` at the fractions `milestones` of all steps).
    weight_decay: of matrices and convolution kernels only; biases, batch norm and quantizer ranges have none.
    grad_clip: largest norm of the gradient, or None. validations: how many times the held-out data are evaluated.
    Raises InputError for fields outside these ranges.
    """

    lr: float
    epochs: int | None = None
    steps: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay: Literal["cosine", "linear", "poly", "constant", "multistep"] = "cosine"
    power: float = 0.9
    milestones: tuple[float, ...] = (0.6, 0.85)
    gamma: float = 0.1
    grad_clip: float | None = None
    validations: int = 5

    def __post_init__(self) -> None:
        """Check the fields."""
        lengths = [n for n in (self.epochs, self.steps) if n is not None]
        if len(lengths) != 1 or lengths[0] < 1:
            raise InputError(
                f"schedule: found epochs={self.epochs} and steps={self.steps}, expected exactly one of them, at least 1"
            )
        self.milestones = tuple(self.milestones)
        checks = {
            "lr": (self.lr, self.lr > 0, "a positive number"),
            "optimizer": (self.optimizer, self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "momentum": (self.momentum, 0 <= self.momentum < 1, "a number from 0 to below 1"),
            "weight_decay": (self.weight_decay, self.weight_decay >= 0, "a number of at least 0"),
            "warmup_steps": (self.warmup_steps, self.warmup_steps >= 0, "an integer of at least 0"),
            "decay": (self.decay, self.decay in DECAYS, f"one of {', '.join(DECAYS)}"),
            "milestones": (self.milestones, all(0 < m < 1 for m in self.milestones), "fractions between 0 and 1"),
            "grad_clip": (self.grad_clip, self.grad_clip is None or self.grad_clip > 0, "null or a positive number"),
            "validations": (self.validations, self.validations >= 1, "an integer of at least 1"),
        }
        for field, (value, fine, expected) in checks.items():
            if not fine:
                raise InputError(f"schedule.{field}: found {value!r}, expected {expected}")

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
            optimizer = AdamW(groups, lr=self.lr)
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
