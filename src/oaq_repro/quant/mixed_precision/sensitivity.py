"""How much a layer minds fewer bits: the trace of the loss's Hessian times what quantization does to the weights.

`Om(b) = trace(H) / n * ||W - Q_b(W)||^2` for a layer of n weights (HAWQ-V2, Dong et al., NeurIPS 2020, arXiv
1911.03852; taken over by HAWQ-V3, Yao et al., ICML 2021, arXiv 2011.10680). The trace is Hutchinson's estimate: the
mean of `v^T H v` over vectors v of independent signs.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.trace import LAYERS
from oaq_repro.quant.numerics import exchanged, largest_magnitude, rowwise, symmetric_scale
from oaq_repro.quant.quantizers import WeightQuantizer

Batch = tuple[Tensor, Any]  # images [N, C, H, W] and their targets
Loss = Callable[[Any, Any], Tensor]  # outputs, targets -> the mean over the images, a scalar
HARD_SIGMOIDS = (F.hardsigmoid, torch._C._nn.hardsigmoid, torch._C._nn.hardsigmoid_)


@dataclass(frozen=True)
class Trace:
    """Of one layer's block of the Hessian. standard_error: of `mean`, over the vectors; images are taken as given."""

    mean: float
    standard_error: float
    weights: int

    @property
    def average(self) -> float:
        """Per weight: the mean eigenvalue."""
        return self.mean / self.weights


def hessian_traces(
    model: nn.Module, batches: Iterable[Batch], loss: Loss, vectors: int, seed: int = 0
) -> dict[str, Trace]:
    """Trace of the Hessian of the mean loss over all images, for the weights of every convolution and linear layer.

    model: float network in evaluation mode with batch norm folded (`quant.conversion.trace.fold`); it is left as it
    is. vectors: at least 2; each spans all layers and is the same for all batches, so one product with the Hessian
    serves every layer. The sum over vectors of the terms between layers is zero in the mean. Layers that share weights
    share the trace evenly. Raises InputError for too few vectors, no batch, a network without layers or with a
    function that has no second derivative, and a loss that is not finite.
    """
    if vectors < 2:
        raise InputError(f"vectors: found {vectors}, expected at least 2, as the error is estimated from them")
    names: dict[int, list[str]] = {}
    weights: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            names.setdefault(id(module.weight), []).append(name)
            if len(names[id(module.weight)]) == 1:
                weights[name] = module.weight.detach().clone().requires_grad_()
    if not weights:
        raise InputError(f"{type(model).__name__}: has no convolution or linear layer, expected at least one")
    products = torch.zeros(vectors, len(weights), dtype=torch.float64)
    count = 0
    for images, target in batches:
        with _TwiceDifferentiable():
            outputs = functional_call(model, {f"{name}.weight": w for name, w in weights.items()}, (images,))
        value = loss(outputs, target)
        if not torch.isfinite(value):
            raise InputError(f"loss: found {value.item()}, expected a finite number on calibration images")
        gradients = _gradients(value, weights, create_graph=True)
        draws = torch.Generator().manual_seed(seed)  # on the CPU, so that all devices see the same
        for i in range(vectors):
            signs = _signs(weights, draws)
            along = sum((g * v).sum() for g, v in zip(gradients, signs, strict=True))
            curved = _gradients(along, weights, retain_graph=True)
            terms = [float((h.double() * v).sum()) for h, v in zip(curved, signs, strict=True)]
            products[i] += len(images) * torch.tensor(terms, dtype=torch.float64)
        count += len(images)
    if not count:
        raise InputError("batches: found none, expected calibration images with targets")
    products /= count
    errors = products.std(0) / math.sqrt(vectors)
    found: dict[str, Trace] = {}
    for same, mean, error in zip(names.values(), products.mean(0).tolist(), errors.tolist(), strict=True):
        share = Trace(mean / len(same), error / len(same), weights[same[0]].numel())
        found |= dict.fromkeys(same, share)
    return found


def sensitivities(
    model: nn.Module, traces: Mapping[str, Trace], widths: Iterable[int], per_channel: bool = True
) -> dict[str, dict[int, float]]:
    """`Om(b)` by layer of `traces` and width in bits, for `quant.mixed_precision.assignment`.

    model: as `hessian_traces` had it. Raises InputError for a width outside 2 to 8.
    """
    widths = list(widths)
    return {
        name: {
            bits: trace.average * squared_error(_rows(model.get_submodule(name)), bits, per_channel) for bits in widths
        }
        for name, trace in traces.items()
    }


@torch.no_grad()
def squared_error(weight: Tensor, bits: int, per_channel: bool = True) -> float:
    """`||W - Q_b(W)||^2` of weights [O, ...] on the symmetric grid from their largest magnitude, without alpha."""
    steps = WeightQuantizer(bits, per_channel).steps
    scale = rowwise(symmetric_scale(largest_magnitude(weight, per_channel), steps, torch.ones(()), len(weight)), weight)
    return float((weight - (weight / scale).round() * scale).double().square().sum())


class _TwiceDifferentiable(TorchFunctionMode):
    """Hard sigmoids written as `relu6(x + 3) / 6`, since torch's own has no second derivative."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in HARD_SIGMOIDS:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))


def _gradients(value: Any, weights: Mapping[str, Tensor], **keep: bool) -> tuple[Tensor, ...]:
    """Of a scalar; zeros for weights that it does not depend on."""
    if not (isinstance(value, Tensor) and value.requires_grad):
        return tuple(torch.zeros_like(weight) for weight in weights.values())
    try:
        return torch.autograd.grad(value, list(weights.values()), materialize_grads=True, **keep)  # type: ignore[call-overload]
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise InputError(f"sensitivity: {error}, expected functions with a second derivative") from error


def _signs(weights: Mapping[str, Tensor], draws: torch.Generator) -> list[Tensor]:
    """-1 and 1 in the shapes of the weights."""
    return [
        (2 * torch.randint(2, w.shape, generator=draws) - 1).to(device=w.device, dtype=w.dtype)
        for w in weights.values()
    ]


def _rows(layer: Any) -> Tensor:
    """Weights as [O, ...], as they are quantized."""
    return exchanged(layer.weight, layer.groups) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
