"""Unstructured pruning of a float network with live batch norm, and quantizers in it: quantization-aware pruning, QAP.

Hawks et al. 2021 (arXiv 2102.11289) train a quantized network, prune the smallest of the weights that are left, all
layers together, train on, and so forth. Which weights are left is not kept beside them: those that are pruned are
exactly zero, in every kind of network on the way from here to the integer graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from oaq_repro.errors import SettingsError
from oaq_repro.fields import InnerFraction, NonNegative, Whole
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.conversion.trace import LAYERS, keep_computed_weights
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import input_quantizer, layers
from oaq_repro.quant.numerics import exchanged, rowwise
from oaq_repro.quant.quantizers import ActivationQuantizer, QuantizerFactory


@dataclass(frozen=True)
class PruningConfig:
    """Which step of pruning a run stands at, and how weights are chosen.

    step: 0 trains the dense network, step k goes on from the network of step k - 1, pruned to `densities[k - 1]`, the
    part of all weights (biases not counted) that is left. ranking: what is pruned first, the smallest `magnitude` of
    the trained weights before they are rounded, or as a control `random` ones. rewind: from which values the rest
    trains on, its own (`none`), or those of the whole network before any training (`start`, Frankle and Carbin, ICLR
    2019). l1: factor of the sum of the weights' magnitudes in the loss.
    """

    step: Whole = 0
    densities: tuple[InnerFraction, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.033, 0.011)
    ranking: Literal["magnitude", "random"] = "magnitude"
    rewind: Literal["none", "start"] = "none"
    l1: NonNegative = 1e-4

    def __post_init__(self) -> None:
        """Densities fall, and there is one for the step (SettingsError)."""
        if any(after >= before for before, after in pairwise(self.densities)):
            raise SettingsError(f"densities: found {list(self.densities)}, expected each smaller than the one before")
        if self.step > len(self.densities):
            raise SettingsError(f"step: found {self.step}, expected at most {len(self.densities)}, one per density")

    @property
    def density(self) -> float:
        """The part of the weights that is left at this step."""
        return self.densities[self.step - 1] if self.step else 1.0

    @property
    def past(self) -> Self:
        """The same without what is still to come: what the network of this step depends on.

        How weights will be chosen makes no difference to the dense one.
        """
        return replace(self, densities=self.densities[: self.step]) if self.step else type(self)(l1=self.l1)

    @property
    def before(self) -> Self | None:
        """The step that this one starts from; None for the dense network."""
        return replace(self, step=self.step - 1).past if self.step else None


def prunable(network: nn.Module) -> list[Any]:
    """The layers whose weights are pruned, all of them, each once."""
    return [module for module in network.modules() if isinstance(module, LAYERS)]


@torch.no_grad()
def prune(network: nn.Module, config: PruningConfig, start: Mapping[str, Tensor]) -> None:
    """Prune the weights that are left to the density of the step, and hold those that are pruned at zero.

    start: state dict of the network before any training. In the end every weight has a parametrization `Held`.
    """
    found = prunable(network)
    left = (
        [module.weight != 0 for module in found] if config.step else [torch.ones_like(x.weight).bool() for x in found]
    )
    if config.step:
        scores = [
            module.weight.abs() if config.ranking == "magnitude" else torch.rand_like(module.weight) for module in found
        ]
        left = largest_left(scores, left, config.density)
    if config.rewind == "start" and config.step:
        network.load_state_dict(start)
    for module, mask in zip(found, left, strict=True):
        hold(module, mask)


def largest_left(scores: Sequence[Tensor], left: Sequence[Tensor], density: float) -> list[Tensor]:
    """Of the weights that are left (bool, one tensor per layer) those with the largest scores, as many as the density
    says of all weights, to the nearest one. Of equal scores the first ones stay.

    scores: in the shapes of `left`.
    """
    every = torch.cat([mask.flatten() for mask in left])
    ranked = torch.cat([score.flatten() for score in scores]).double().masked_fill(~every, -1.0)
    kept = min(round(density * len(every)), int(every.sum()))
    found = torch.zeros_like(every)
    found[ranked.sort(descending=True, stable=True).indices[:kept]] = True
    parts = found.split([mask.numel() for mask in left])
    return [part.reshape(mask.shape) for part, mask in zip(parts, left, strict=True)]


class Held(nn.Module):
    """Parametrization: weights float32 [...] that are exactly zero where `mask` (bool, of their shape) is False.

    What an optimizer does to those values, by its momentum for one, changes nothing.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Zeros where nothing is left."""
        return torch.where(self.mask, weight, torch.zeros_like(weight))


def hold(module: nn.Module, mask: Tensor) -> None:
    """Hold a layer's weights at zero where `mask` is False."""
    parametrize.register_parametrization(module, "weight", Held(mask))


@contextmanager
def zeros_held(network: nn.Module) -> Iterator[None]:
    """Meanwhile the weights of quantized layers that are zero now stay so, whatever is trained."""
    found = [module for module in network.modules() if isinstance(module, QuantLayer)]
    for module in found:
        hold(module, module.weight.detach() != 0)
    try:
        yield
    finally:
        for module in found:
            keep_computed_weights(module)


def held_magnitudes(network: nn.Module) -> Tensor:
    """The sum of the magnitudes of the weights that are left, before they are rounded: float32 scalar."""
    chains = [module.parametrizations.weight for module in prunable(network)]
    return torch.stack([chain[0](chain.original).abs().sum() for chain in chains]).sum()


class Rounded(nn.Module):
    """Parametrization: weights float32 [O, ...] on the grid of a weight quantizer, straight through.

    inputs: the quantizer of what the layer reads; a hook applies it. groups: of a transposed convolution, whose weights
    lie as [I, O / groups, kh, kw]; else 0.
    """

    def __init__(self, layer: QuantLayer, inputs: ActivationQuantizer, groups: int) -> None:
        super().__init__()
        self.weights, self.inputs, self.accumulator, self.groups = (
            layer.weight_quantizer,
            inputs,
            layer.accumulator,
            groups,
        )

    def forward(self, weight: Tensor) -> Tensor:
        """As the integer network will have them, but for batch norm."""
        rows = exchanged(weight, self.groups) if self.groups else weight
        scale = self.weights.scale(rows)
        codes = self.weights.codes(rows, scale, self.inputs.parameters_of_range(), self.accumulator)
        real = codes * rowwise(scale, codes)
        return exchanged(real, self.groups) if self.groups else real

    def attach(self, module: nn.Module) -> None:
        """To the weights of a float layer, and to its input."""
        parametrize.register_parametrization(module, "weight", self)
        self.handle = module.register_forward_pre_hook(self.read)

    def read(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Quantize the input of a layer."""
        x, *rest = args
        return (self.inputs.quantize_real(x).dequantize(), *rest)


def quantize_live(
    network: nn.Module, factory: QuantizerFactory, config: QuantizationConfig, input_shape: Sequence[int]
) -> None:
    """Let layers of a float network train with quantizers on weights and inputs, their batch norm unfolded.

    All layers get them, with the bits that `config` says for each, and so does the image. Outputs of the network are
    left as they are. factory: of quantizers without parameters. network: its weights are held (`prune`).
    """
    quantized = quantize_network(network, factory, config, input_shape)
    for name, layer in layers(quantized).items():
        module = network.get_submodule(name)
        if isinstance(module, LAYERS):  # else a batch norm that stands alone
            groups = module.groups if isinstance(module, nn.ConvTranspose2d) else 0
            Rounded(layer, input_quantizer(quantized, name), groups).attach(module)


def stop_quantizing(network: nn.Module) -> None:
    """Weights and inputs as they are before rounding, in place; what is pruned stays zero."""
    for module in prunable(network):
        chain = module.parametrizations.weight
        if len(chain) > 1:
            chain[1].handle.remove()
            del chain[1]
