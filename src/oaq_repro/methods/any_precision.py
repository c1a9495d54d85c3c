"""One network at several precisions: weights of any width from one tensor, batch norm and clips of their own per width.

For l bits a weight is truncated from its 8-bit code q: by an integer shift, `c = 2 (q >> (8 - l)) + 1` at the scale
`s d / 2`, d = 2^(8 - l), whose error is at most d / 2 codes; for 8 bits it is q at the scale s. These codes are odd, up
to 2^l - 1, so that the integer graph has them as they are. The formula of VideoIQ's code is the other one:
`t = tanh w / (2 max |tanh w|) + 1/2`, `q = round(t (2^8 - 1))`, `q_l = floor(q / d) d`, and the weight is
`2 q_l / (2^8 - 1) mean(q) / mean(q_l) - 1`; its levels are not symmetric, so that the graph rounds them to 8-bit codes.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.trace import IDENTITY_MODULES, LAYERS, keep_computed_weights, module_of, trace
from oaq_repro.quant.network import QuantizedNetwork, layers
from oaq_repro.quant.numerics import SMALLEST_SCALE, largest_magnitude, round_ste, rowwise
from oaq_repro.quant.quantizers import WeightQuantizer

HIGH = 8
"""Bits from which weights are truncated."""
Formula = Literal["integer", "reference"]
ACTIVATIONS = (nn.ReLU, nn.ReLU6)
CLIP_START = 6.0


def truncated(codes: Tensor, bits: int) -> Tensor:
    """8-bit codes int64 from -128 to 127 -> odd codes of that many bits, int64; for 8 bits they are what they were."""
    return codes if bits == HIGH else 2 * (codes >> (HIGH - bits)) + 1


def integer_weights(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes int64, in the shape of `weight` [O, ...], and their scale float32 [O], one per output channel."""
    step = (largest_magnitude(weight, True) / (2 ** (HIGH - 1) - 1)).clamp(min=SMALLEST_SCALE)
    codes = torch.round(weight / rowwise(step, weight)).long()
    return truncated(codes, bits), step if bits == HIGH else step * 2 ** (HIGH - bits) / 2


def reference_codes(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes int64 of 8 bits, 0 to 255, and of `bits` bits, 0 to 2^bits - 1, by VideoIQ's formula.

    By integers: truncated from 32 bits in float32, the largest 4-bit code would be 16.
    """
    bent = torch.tanh(weight)
    high = torch.round((bent / (2 * bent.abs().max().clamp(min=SMALLEST_SCALE)) + 0.5) * (2**HIGH - 1)).long()
    return high, high >> (HIGH - bits)


def reference_weights(weight: Tensor, bits: int) -> Tensor:
    """Weights float32 by VideoIQ's formula."""
    high, low = reference_codes(weight, bits)
    kept = (low << (HIGH - bits)).to(weight.dtype)
    ratio = high.to(weight.dtype).mean() / kept.mean().clamp(min=SMALLEST_SCALE)
    return 2 * kept * ratio / (2**HIGH - 1) - 1


class Truncated(nn.Module):
    """Parametrization: weights of `bits` bits from one tensor, with a gradient that passes straight through.

    With the reference formula it passes through its tanh. fixed: whether these bits are those of all widths.
    """

    def __init__(self, bits: int, formula: Formula, fixed: bool = False) -> None:
        super().__init__()
        self.bits, self.formula, self.fixed = bits, formula, fixed

    def forward(self, weight: Tensor) -> Tensor:
        """The weights, in the shape of the tensor."""
        if self.formula == "reference":
            bent = torch.tanh(weight)
            soft = bent / bent.detach().abs().max().clamp(min=SMALLEST_SCALE)
            return soft + (reference_weights(weight.detach(), self.bits) - soft).detach()
        codes, scale = integer_weights(weight.detach(), self.bits)
        return weight + (codes * rowwise(scale, weight) - weight).detach()


class SwitchedNorm(nn.Module):
    """Batch norm of its own for every width."""

    def __init__(self, norm: nn.Module, widths: Sequence[int]) -> None:
        super().__init__()
        self.norms = nn.ModuleDict({str(bits): copy.deepcopy(norm) for bits in widths})
        self.bits = max(widths)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized by the present width's."""
        return self.norms[str(self.bits)](x)


class Clip(nn.Module):
    """A rectified activation that ends at a learned clip and has `bits` bits, of its own for every width.

    PACT's (Choi et al. 2018) clip, with the gradient of its rounding, too (LSQ's), as without a decay of the clip a few
    bits would keep too wide a range. Parameters: by width, float32 scalars, that start as `min(6, bits)`.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.ends = nn.ParameterDict({str(b): nn.Parameter(torch.tensor(min(CLIP_START, float(b)))) for b in widths})
        self.bits = max(widths)

    def end(self, bits: int) -> Tensor:
        """Where the range of that width ends."""
        return self.ends[str(bits)].abs().clamp(min=SMALLEST_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Rounded to the levels of [0, end]."""
        levels = 2**self.bits - 1
        scale = self.end(self.bits) / levels
        return round_ste((x / scale).clamp(0, levels)) * scale


def any_precision(dense: nn.Module, widths: Sequence[int], formula: Formula) -> nn.Module:
    """Make a float network one of several widths, in place: layers, norms, ReLUs.

    The first layer that a network names and the last have 8 bits at all widths. In the source they are float; here they
    train with the codes that they are deployed with, since what follows has few levels: a small error of the first
    layer's weights moves whole areas that are alike over a threshold. InputError for fewer than three layers.
    """
    found = [module for module in dense.modules() if isinstance(module, LAYERS)]
    if len(found) < 3:
        raise InputError(f"model: found {len(found)} layers, expected one at least between the first and the last")
    for module in list(dense.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, SwitchedNorm(child, widths))
    for module in list(dense.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ACTIVATIONS):
                setattr(module, name, Clip(widths))
    for module in found[1:-1]:
        parametrize.register_parametrization(module, "weight", Truncated(max(widths), formula))
    for module in (found[0], found[-1]):
        parametrize.register_parametrization(module, "weight", Truncated(HIGH, "integer", fixed=True))
    return dense


def set_width(network: nn.Module, bits: int) -> None:
    """From now on it computes at this width."""
    for module in network.modules():
        if isinstance(module, SwitchedNorm | Clip) or (isinstance(module, Truncated) and not module.fixed):
            module.bits = bits


class AtWidth:
    """The plain float network that such a network is at one width.

    dense: with batch norms, ReLUs and weights as parameters. clips: by the qualified name of a ReLU the end of its
    range. codes: by the qualified name of a layer whose weights are truncated by integers, their bits and codes,
    int64 [O, ...].
    """

    def __init__(self, network: nn.Module, bits: int) -> None:
        network = copy.deepcopy(network)
        set_width(network, bits)
        self.bits = bits
        self.clips: dict[str, float] = {}
        self.codes: dict[str, tuple[int, Tensor]] = {}
        for name, module in list(network.named_modules()):
            if isinstance(module, SwitchedNorm):
                network.set_submodule(name, module.norms[str(bits)])
        for name, module in list(network.named_modules()):
            if isinstance(module, Clip):
                self.clips[name] = module.end(bits).item()
                network.set_submodule(name, nn.ReLU())
            elif parametrize.is_parametrized(module):
                kept, (how,) = module.parametrizations.weight.original.detach(), module.parametrizations.weight
                if how.formula == "integer":
                    self.codes[name] = how.bits, integer_weights(kept, how.bits)[0]
                keep_computed_weights(module)
        self.dense = network.eval()

    def rectified(self, quantized: QuantizedNetwork, input_shape: Sequence[int]) -> dict[str, float]:
        """By the name of the quantized module whose output a clip ends, its end; InputError where there is none.

        input_shape: [C, H, W] of the images.
        """
        graph = trace(self.dense, input_shape)
        found: dict[str, float] = {}
        for node in graph.graph.nodes:
            name = str(node.target) if node.op == "call_module" else ""
            clip = self.clips.get(name, self.clips.get(f"{name}.act"))
            if clip is None:
                continue
            names = _names_before(graph, node)
            made = next((n for n in names if _rectifies(quantized, n)), None)
            if made is None:
                raise InputError(
                    f"{name}: found no quantized module that ends with this ReLU, expected one of {', '.join(names)}"
                )
            found[made] = clip
        return found


def _names_before(graph: fx.GraphModule, node: fx.Node) -> list[str]:
    """The names that the quantized module may have into which a ReLU goes: its own, and those of what feeds it."""
    names: list[str] = []
    while True:
        names.append(str(node.target) if node.op == "call_module" else node.name)
        passes = len(names) == 1 or isinstance(module_of(graph, node), (_BatchNorm, *IDENTITY_MODULES))
        if not node.all_input_nodes or not passes:
            return names
        node = node.all_input_nodes[0]


def _rectifies(quantized: QuantizedNetwork, name: str) -> bool:
    try:
        module = quantized.get_submodule(name)
    except AttributeError:
        return False
    return getattr(getattr(module, "output", None), "activation", "none") != "none"


class TruncatedWeights(WeightQuantizer):
    """Odd codes up to 2^bits - 1; for 8 bits ordinary ones.

    Buffer grid (float32 [O]): the scale of codes that are known, 0 where the scale follows from the largest weight.
    """

    grid: Tensor

    def __init__(self, bits: int, per_channel: bool) -> None:
        super().__init__(bits, per_channel)
        self.register_buffer("grid", torch.zeros(()))

    @property
    def largest(self) -> int:
        """Of the odd codes; 7 bits have the largest that an int8 holds."""
        return 2**self.bits - 1 if self.bits < HIGH else super().largest

    def attach(self, weight: Tensor) -> None:
        """A grid per channel."""
        super().attach(weight)
        self.grid = self.grid.expand(len(weight)).clone()

    def span(self, weight: Tensor) -> Tensor:
        """What `steps` steps of a known grid span, else the present largest magnitude."""
        largest = super().span(weight)
        return torch.where(self.grid > 0, self.grid * self.steps, largest) if self.per_channel else largest

    def codes(self, weight: Tensor, scale: Tensor, *rest: object) -> Tensor:
        """The nearest odd codes; the gradient passes straight through."""
        ratio = weight / rowwise(scale, weight)
        if self.bits == HIGH:
            return round_ste(ratio)
        odd = 2 * torch.floor(ratio / 2) + 1
        return ratio + (odd.clamp(-self.largest, self.largest) - ratio).detach()


def take_over(quantized: QuantizedNetwork, codes: Mapping[str, tuple[int, Tensor]]) -> None:
    """Tell the weight quantizers of layers the grid on which their folded weights lie, factors of integers.

    codes: as `AtWidth` has them. Layers to which the settings give other bits are left alone.
    """
    modules = layers(quantized)
    for name, (bits, integers) in codes.items():
        if modules[name].weight_quantizer.bits != bits:
            continue
        quantizer, weight = modules[name].weight_quantizer, modules[name].weight.detach()
        largest = integers.abs().flatten(1).amax(1).clamp(min=1)
        assert isinstance(quantizer, TruncatedWeights)
        quantizer.grid.copy_(largest_magnitude(weight, True) / largest)
