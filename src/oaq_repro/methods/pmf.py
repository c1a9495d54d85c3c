"""Proximal mean-field, PMF (Ajanthan et al., ICCV 2019, arXiv 1812.04353): binary and ternary weights.

Every weight is a mean over the levels Q, `w = u^T Q`, with `u = softmax(beta u~)` of auxiliary variables u~, one per
level. They are trained on the float network, with live batch norm, while beta is annealed from 1 to infinity; in the
end each weight is the level with the largest u~. `projection` has two relatives, as in the authors' code
(github.com/tajanthan/pmf): `sparsemax` (projected gradient descent, PGD) in the place of softmax, and `argmax` (PICM,
which is BinaryConnect), with hard weights in every forward pass and gradients that pass straight through, halved, where
|u~_1 - u~_0| <= 1.

`gradient` of softmax: that of the formula, `beta (diag u - u u^T)`, or the one in the authors' code, with which their
published numbers were made: `beta (I - v v^T)`, `v = softmax(beta u)`, which does not vanish as beta grows.

What follows is the usual way: batch norm is folded, so that the weights of a channel become +-k (or 0), which a
quantizer of 2 bits with a scale per channel represents without error; activations are calibrated, nothing is
fine-tuned.

What the source leaves open and what is chosen here:

- Weights and biases of convolutions and linear layers are quantized, the last bias too, as in the source. In the
  authors' code scale and shift of batch norm, where there are any (LeNet-300), are mixed in pairs, as by an oversight;
  here they stay float, as folding makes them parts of k and of the bias.
- Activations have 8 bits in the integer network (the source: float). `hard` in the record is the source's setting.
- The network after the last step counts (the authors' code: the best of all evaluations on held-out images).
- u~ starts as in the authors' code: Glorot's uniform distribution for weights, counting an output per level, a normal
  one with deviation 0.1 for biases. The float parent is not looked at.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oaq_repro.errors import SettingsError
from oaq_repro.fields import Count, Positive
from oaq_repro.methods.base import Method
from oaq_repro.quant.conversion.trace import LAYERS

Scale = Annotated[float, Gt(1), Le(1000)]
Projection = Literal["softmax", "sparsemax", "argmax"]
Gradient = Literal["softmax", "reference"]
LEVELS = {2: (-1.0, 1.0), 3: (-1.0, 0.0, 1.0)}
BIAS_DEVIATION = 0.1
ANNEALED = 0.95
"""Of the training, after which beta is the largest where no interval is given."""


@dataclass(frozen=True)
class WeightsConfig:
    """How weights become levels. projection, gradient: module docstring. levels: 2 (-1, 1) or 3 (-1, 0, 1).

    beta starts at 1 and is multiplied by `beta_scale` every `beta_interval` steps, up to `beta_max`; interval None: the
    largest at which that is reached within the part ANNEALED of the training.
    Raises SettingsError where projection, gradient and levels do not fit.
    """

    projection: Projection = "softmax"
    gradient: Gradient = "softmax"
    levels: Literal[2, 3] = 2
    beta_scale: Scale = 1.1
    beta_interval: Count | None = None
    beta_max: Positive = 1e4

    def __post_init__(self) -> None:
        """The relatives have one gradient each, and BinaryConnect two levels."""
        if self.gradient == "reference" and self.projection != "softmax":
            raise SettingsError(f"gradient, projection: found reference and {self.projection}, expected softmax")
        if self.projection == "argmax" and self.levels != 2:
            raise SettingsError(f"levels, projection: found {self.levels} and argmax, expected 2 levels")

    def interval(self, steps: int) -> int:
        """Steps between two changes of beta in a training of so many steps."""
        if self.beta_interval is not None:
            return self.beta_interval
        changes = math.ceil(math.log(max(self.beta_max, 1.0)) / math.log(self.beta_scale))
        return max(1, int(ANNEALED * steps / max(1, changes)))

    def beta(self, step: int, steps: int) -> float:
        """In the forward pass of a step of `steps`, the first being 0.

        `min(beta_scale^ceil(step / interval), beta_max)`: as in the authors' code it first grows after the first step.
        """
        changes = math.ceil(step / self.interval(steps))
        reached = changes * math.log(self.beta_scale) >= math.log(self.beta_max)
        return self.beta_max if reached else self.beta_scale**changes


@dataclass
class PMF(Method):
    """Weights of two or three levels, annealed before batch norm is folded (`weights`). Never fine-tuned."""

    fine_tune: bool = field(init=False, default=False)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    sees_accumulator: ClassVar[bool] = False
    prepares: ClassVar[frozenset[str]] = frozenset({"weights"})

    def prepare(self, dense: nn.Module) -> list[pl.Callback]:
        """Auxiliary variables in the place of weights and biases; the callback anneals beta."""
        for module in list(dense.modules()):
            if isinstance(module, LAYERS):
                for name, _ in list(module.named_parameters(recurse=False)):
                    parametrize.register_parametrization(module, name, Simplex(self.weights))
        return [Annealing(self.weights)]

    def harden(self, dense: nn.Module) -> None:
        """Each weight is its likeliest level."""
        for simplex in simplices(dense):
            simplex.projection = "argmax"


class Annealing(pl.Callback):
    """Sets beta before every step, by the number of the step, so that a resumed training has the right one."""

    def __init__(self, config: WeightsConfig) -> None:
        self.config = config

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        """Set."""
        beta = self.config.beta(trainer.global_step, int(trainer.estimated_stepping_batches))
        for simplex in simplices(pl_module):
            simplex.beta.fill_(beta)


def simplices(network: nn.Module) -> list["Simplex"]:
    """All parametrizations of this kind."""
    return [module for module in network.modules() if isinstance(module, Simplex)]


class Simplex(nn.Module):
    """Auxiliary variables float32 [..., d] -> weights float32 [...], `projection(beta u~)^T Q` with d levels Q.

    Buffers: levels (float32 [d]), beta (float32 scalar).
    """

    levels: Tensor
    beta: Tensor

    def __init__(self, config: WeightsConfig) -> None:
        super().__init__()
        self.projection, self.gradient = config.projection, config.gradient
        self.register_buffer("levels", torch.tensor(LEVELS[config.levels]))
        self.register_buffer("beta", torch.ones(()))

    def forward(self, auxiliary: Tensor) -> Tensor:
        """The weights."""
        return self.memberships(auxiliary) @ self.levels

    def memberships(self, auxiliary: Tensor) -> Tensor:
        """u, float32 [..., d]: rows on the simplex."""
        if self.projection == "argmax":
            return _Argmax.apply(auxiliary)
        if self.projection == "sparsemax":
            return sparsemax(self.beta * auxiliary)
        if self.gradient == "reference":
            return _ReferenceSoftmax.apply(auxiliary, self.beta)
        return torch.softmax(self.beta * auxiliary, dim=-1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Where training starts, for weights of this shape; no inverse, as their values are not looked at."""
        shape, levels = weight.shape, len(self.levels)
        if len(shape) < 2:
            return BIAS_DEVIATION * torch.randn(*shape, levels, device=weight.device)
        size = math.prod(shape[2:])
        bound = math.sqrt(6.0 / (size * (shape[1] + levels * shape[0])))
        return torch.empty(*shape, levels, device=weight.device).uniform_(-bound, bound)


def sparsemax(x: Tensor) -> Tensor:
    """Euclidean projection of x float32 [..., d] onto the simplex (Martins and Astudillo, ICML 2016, algorithm 1)."""
    ordered = x.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1.0
    count = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=x.dtype)
    support = (ordered * count > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (x - threshold).clamp(min=0.0)


class _Argmax(torch.autograd.Function):
    """The corner of the simplex that is nearest; the first of equal ones. Backward: BinaryConnect's, halved."""

    @staticmethod
    def forward(ctx, auxiliary: Tensor) -> Tensor:
        ctx.save_for_backward(auxiliary)
        return torch.nn.functional.one_hot(auxiliary.argmax(-1), auxiliary.shape[-1]).to(auxiliary.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (auxiliary,) = ctx.saved_tensors
        inside = (auxiliary[..., 1] - auxiliary[..., 0]).abs() <= 1.0
        half = (gradient[..., 1] - gradient[..., 0]) / 2 * inside
        return torch.stack([-half, half], dim=-1)


class _ReferenceSoftmax(torch.autograd.Function):
    """`softmax(beta u~)` with the gradient of the authors' code (module docstring)."""

    @staticmethod
    def forward(ctx, auxiliary: Tensor, beta: Tensor) -> Tensor:
        u = torch.softmax(beta * auxiliary, dim=-1)
        ctx.save_for_backward(u, beta)
        return u

    @staticmethod
    def backward(ctx, gradient: Tensor):
        u, beta = ctx.saved_tensors
        v = torch.softmax(beta * u, dim=-1)
        return beta * (gradient - v * (v * gradient).sum(-1, keepdim=True)), None
