"""VideoIQ, dynamic network quantization (Sun et al., ICCV 2021, arXiv 2108.10394): a precision for every frame.

One network computes frames at several widths (`methods.any_precision`). It is trained in a first stage, before batch
norm is folded, by cross entropy and distillation from the float network on the logits of whole clips. In a second
stage, with the network frozen, a small policy network learns which width every frame is computed at, or that it is
skipped, by hard samples of Gumbel's softmax. A clip's logits are the mean over its kept frames, nothing where there is
none. `frames` runs both stages, makes an integer graph of every width, and the controls.

What the source leaves open and what is chosen here:

- Activations have the width's bits behind ReLUs (the source's cost counts both operands, bits squared); elsewhere
  (sums before a ReLU, pools, logits) 8. First convolution and classifier are float in the source, 8 bits here.
- Weights are truncated by integers, so that all widths of the integer graphs come from one tensor of 8-bit codes;
  `formula: reference` is that of the source, truncated from 8 bits too.
- The policy learns from the logits of the quantized networks that are deployed, settled accumulators included.
- Stage 1 starts from the float network; every step trains all widths, on the same batch.
- Entropy of the policy is rewarded, so that it does not settle on one choice at once.
- The policy itself stays float. Its cost is counted by the source's rule, in which float costs as much as 8 bits, and
  as 32 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import MinLen
from torch import nn

from oaq_repro.errors import InputError, SettingsError
from oaq_repro.fields import Bits, NonNegative, Positive, PositiveFraction, Size, Width
from oaq_repro.methods.any_precision import (
    HIGH,
    AtWidth,
    Formula,
    TruncatedWeights,
    any_precision,
    take_over,
)
from oaq_repro.methods.base import Method
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.quantizers import ActivationQuantizer

Widths = Annotated[tuple[Bits, ...], MinLen(1)]


@dataclass(frozen=True)
class WidthsConfig:
    """What stage 1 trains. widths: bits, the most first; the first is 8, from which the others are truncated.

    formula: how (`any_precision`). distillation: weight of the distance to the float network's logits beside that to
    the labels. Raises SettingsError for widths in another order.
    """

    widths: Widths = (8, 4, 2)
    formula: Formula = "integer"
    distillation: NonNegative = 1.0

    def __post_init__(self) -> None:
        """Once each, falling."""
        if self.widths[0] != HIGH or list(self.widths) != sorted(set(self.widths), reverse=True):
            raise SettingsError(f"widths: found {list(self.widths)}, expected different bits, falling from {HIGH}")


@dataclass(frozen=True)
class PolicyConfig:
    """What stage 2 trains. size, network, channels, width, hidden: of the policy network (`models.policy.Policy`).

    cost_weight, balance_weight, entropy_weight, own_weight: of the cost of a clip by the source's rule (1: all frames
    at 8 bits), of the squared distances of the choices' shares from equal ones, of the entropy of the choices, which is
    rewarded, and of the policy's own cross entropy. tau, tau_decay: Gumbel's temperature at first, and its factor after
    every epoch.
    """

    size: Size = 84
    network: Literal["cnn", "mobilenetv2"] = "mobilenetv2"
    channels: Annotated[tuple[Size, ...], MinLen(1)] = (8, 16)
    width: Width = 1.0
    hidden: Size = 512
    cost_weight: NonNegative = 0.16
    balance_weight: NonNegative = 0.5
    entropy_weight: NonNegative = 0.1
    own_weight: NonNegative = 1.0
    tau: Positive = 5.0
    tau_decay: PositiveFraction = 0.956


@dataclass
class VideoIQ(Method):
    """Precision per frame. stage 1: `precision`, by schedule.prepare; stage 2: `policy`, by schedule.finetune."""

    fine_tune: bool = field(init=False, default=True)
    bias_correction: bool = field(init=False, default=False)
    precision: WidthsConfig = field(default_factory=WidthsConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    prepares: ClassVar[frozenset[str]] = frozenset({"precision"})

    def __post_init__(self) -> None:
        """Precision is searched for per frame, not per layer."""
        super().__post_init__()
        if self.search is not None or self.settles_before_training:
            raise SettingsError("search, settle.before_training: found one, expected null and false: widths are given")

    def weight_quantizer(self, bits: int, per_channel: bool) -> TruncatedWeights:
        """Odd codes."""
        return TruncatedWeights(bits, per_channel)

    def make_any_precision(self, dense: nn.Module) -> nn.Module:
        """The network that stage 1 trains, from the float network, which is changed."""
        return any_precision(dense, self.precision.widths, self.precision.formula)

    def quantized(self, network: AtWidth, config: QuantizationConfig, shape: Sequence[int]) -> QuantizedNetwork:
        """The quantized network of one width, not calibrated. shape: of a frame, [C, H, W].

        Learned ranges are set, and observers do not move them. InputError where weights have one scale for all
        channels, and for ReLUs that end up in no quantized module.
        """
        if not config.per_channel:
            raise InputError("quantization.per_channel: found false, expected true with method videoiq")
        ends = network.rectified(quantize_network(network.dense, self, config, shape), shape)
        weights = {f"weights of {name}": Override(name, weight_bits=bits) for name, (bits, _) in network.codes.items()}
        outputs = {f"output of {name}": Override(name, activation_bits=network.bits) for name in ends}
        own = {**weights, **outputs}
        made = quantize_network(network.dense, self, replace(config, overrides={**own, **config.overrides}), shape)
        take_over(made, network.codes)
        for name, end in ends.items():
            set_range(made.get_submodule(name).output, end)  # type: ignore[arg-type]
        return made


@torch.no_grad()
def set_range(quantizer: ActivationQuantizer, end: float) -> None:
    """[0, end], whatever is observed from now on."""
    quantizer.low.zero_()
    quantizer.high.fill_(end)
    quantizer.observing = False
