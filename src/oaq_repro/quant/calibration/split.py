"""How an excess over the limit is shared between a layer's two operands: e^s for the activation, the rest for weights.

Our own: the paper does not say how. `even` is s = 1/2 everywhere. No fixed share is best for every network, so
`output_error` takes, for each activation, that one of `CANDIDATES` with which the outputs of the layers that read it
come nearest to what they are on the same input with real weights. All consumers of a tensor are looked at together,
also those that need nothing, since they read its coarser codes too. The image's factor stays 1, so its share is 0.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, distributed

from oaq_repro.fields import Fraction
from oaq_repro.quant.calibration.calibrate import ImageBatches, first_images
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.quant.numerics import QTensor, channelwise
from oaq_repro.quant.quantizers import ActivationQuantizer, WeightQuantizer

Split = Literal["output_error", "even"] | Fraction

ALPHA_CAP = 16.0
"""Largest range mapping factor (DESIGN: 1 <= alpha <= 16): 8-bit codes have shrunk to 4 bits there."""

CANDIDATES = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
EVEN = 0.5


def fixed_share(split: Split) -> float | None:
    """The activation's share s that `split` says, None where it has to be chosen."""
    if isinstance(split, str):
        return EVEN if split == "even" else None
    return float(split)


def left_to_weights(needs: Tensor, taken: float | Tensor) -> Tensor:
    """What is left of the channels' needs [O], factors of at least 1, when their input's codes shrink by `taken`."""
    return (needs / taken).clamp(min=1.0)


class SplitErrors:
    """Errors of layers' outputs under every candidate, summed over batches, for the tensors that have an excess.

    needs: for every layer the factors by which its channels' sums are to shrink, float64 [O], at least 1.
    """

    def __init__(self, model: QuantizedNetwork, needs: Mapping[str, Tensor]) -> None:
        self.model, self.needs = model, needs
        self.excess: dict[str, float] = {}
        for name, need in needs.items():
            source = model.sources[name]
            if input_quantizer(model, name).scalable and need.max() > 1:
                self.excess[source] = max(float(need.max()), self.excess.get(source, 1.0))
        self.layers = {n: layer for n, layer in layers(model).items() if model.sources[n] in self.excess}
        self._sums = {name: torch.zeros(len(CANDIDATES) + 1, dtype=torch.float64) for name in self.layers}

    def add(self, name: str, x: QTensor) -> None:
        """Look at one batch of a layer's input, codes [N, C, H, W] or [N, K] as they are now."""
        excess = self.excess[self.model.sources[name]]
        found = output_errors(self.layers[name], input_quantizer(self.model, name), x, self.needs[name], excess)
        self._sums[name] += found.cpu()

    def shares(self) -> dict[str, float]:
        """For every tensor that has an excess, by the name of the module that makes it, the share of least error.

        Errors are relative to the power of the layer's output and added over its consumers, and over all ranks.
        """
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values()))
        if distributed.is_available() and distributed.is_initialized():
            device = next(self.model.parameters()).device
            sums = sums.to(device)
            distributed.all_reduce(sums)
        relative = sums[:, :-1] / sums[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)
        total: dict[str, Tensor] = {}
        for name, errors in zip(self._sums, relative, strict=True):
            if errors.isfinite().any():  # else the layer takes 32 bits whatever the share
                source = self.model.sources[name]
                total[source] = total.get(source, torch.zeros_like(errors)) + errors
        return {source: CANDIDATES[int(errors.argmin())] for source, errors in total.items()}


def choose_shares(
    model: QuantizedNetwork, images: ImageBatches, needs: Mapping[str, Tensor], split: Split
) -> dict[str, float]:
    """The share of every activation that has an excess, by the name of the module that makes it."""
    choice, fixed = SplitErrors(model, needs), fixed_share(split)
    if fixed is not None:
        return dict.fromkeys(choice.excess, fixed)
    if not choice.excess:
        return {}
    was_training = model.training
    model.eval()
    for name, layer in choice.layers.items():
        layer.probe = lambda acc, x, weight, name=name: choice.add(name, x)
    for batch in first_images(images):
        model(batch)
    for layer in choice.layers.values():
        layer.probe = None
    model.train(was_training)
    return choice.shares()


@torch.no_grad()
def output_errors(layer: QuantLayer, source: ActivationQuantizer, x: QTensor, needs: Tensor, excess: float) -> Tensor:
    """Squared error of a layer's output for each of `CANDIDATES`, and the output's power: float64 [candidates + 1].

    x: input of the layer, as `source` makes it now; needs, float64 [O], and excess, the worst need of all the layers
    that read x. What the output quantizer clips counts for neither. A candidate beyond `ALPHA_CAP` has infinite error.
    """
    scale, zero_point, q_max = layer.output.parameters_of_range()
    low, high = -zero_point * scale, (q_max - zero_point) * scale
    real = x.dequantize()
    exact = layer.product(real, layer.weight, layer.bias).clamp(low, high)
    found = []
    for share in CANDIDATES:
        with _raised(source, layer.weight_quantizer, excess**share, needs) as possible:
            if not possible:
                found.append(torch.full((), torch.inf, dtype=torch.float64, device=real.device))
                continue
            qparams = source.parameters_of_range()
            coarse = source.encode(real / qparams.scale, *qparams)
            codes, bias, unit = layer.weight_codes(qparams)
            sums = layer.product(coarse.centred(), codes, None)
            output = ((sums + channelwise(bias, sums)) * channelwise(unit, sums)).clamp(low, high)
        found.append((output - exact).double().square().sum())
    return torch.stack([*found, exact.double().square().sum()])


@contextmanager
def _raised(source: ActivationQuantizer, weights: WeightQuantizer, taken: float, needs: Tensor) -> Iterator[bool]:
    """Both operands' factors raised while the context lasts; yields whether none passes the cap."""
    before = source.alpha.clone(), weights.alpha.clone()
    source.alpha.mul_(taken)
    weights.raise_factors(left_to_weights(needs, taken))
    try:
        yield bool(source.alpha <= ALPHA_CAP and (weights.alpha <= ALPHA_CAP).all())
    finally:
        source.alpha.copy_(before[0])
        weights.alpha.copy_(before[1])
