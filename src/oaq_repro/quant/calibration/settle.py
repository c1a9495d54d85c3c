"""Settling: range mapping factors are raised until no accumulator overflows on a set of images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.fields import Count, Margin
from oaq_repro.quant.calibration.calibrate import ImageBatches, count_overflow
from oaq_repro.quant.calibration.split import ALPHA_CAP, EVEN, Split, choose_shares, left_to_weights
from oaq_repro.quant.network import QuantizedNetwork, input_qparams, input_quantizer, layers
from oaq_repro.quant.overflow import OverflowMeter


@dataclass(frozen=True)
class SettleConfig:
    """How far and how long settling goes. Our choice; the paper's end of training is unknown.

    margin: factor by which the limit is undercut where a channel is touched. With factors per channel every channel
    ends near a limit of its own, so that other images overflow sooner than with one factor, for which 1.15 is enough: a
    settled MobileNetV2 erred least, overflow included, with 1.5 (docs/lab_notebook.md). max_passes: passes over the
    settle set before settling gives up with an error. batches: size of the settle set in batches of training images;
    None: all of them. split: how an excess is shared between activation and weights (`quant.calibration.split`):
    `output_error`, `even`, or the activation's share of its exponent, 0 to 1. before_training: whether factors are
    settled after calibration as well, so that weights train under the factors that they are deployed with.
    """

    margin: Margin = 1.5
    max_passes: Count = 20
    batches: Count | None = None
    split: Split = "output_error"
    before_training: bool = False


@dataclass
class SettleReport:
    """What settling did and what the last pass over the settle set saw.

    passes made; per layer the events and the outputs checked in the last one; its images; layers whose accumulator was
    replaced, with the reason; for every activation that was raised, its share of the excess.
    """

    passes: int = 0
    images: int = 0
    events: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def see(self, meters: dict[str, OverflowMeter]) -> None:
        """Take over the counts of one pass."""
        self.passes += 1
        self.events = {name: meter.total() for name, meter in meters.items()}
        self.outputs = {name: meter.outputs for name, meter in meters.items()}
        self.images = max((len(meter.per_image()) for meter in meters.values()), default=0)


@torch.no_grad()
def settle(model: QuantizedNetwork, images: ImageBatches, config: SettleConfig = SettleConfig()) -> SettleReport:
    """Raise range mapping factors until no accumulator passes its limit on the settle set.

    Every pass measures all layers; a channel whose largest partial sum times `margin` passes the limit needs its sums
    shrunk by that excess (with one factor for all channels, as the worst of them does). Of a layer's worst excess e the
    input's alpha takes e^s, s the share that `split` says, and every channel's alpha what is left of its own need;
    where the input's alpha is fixed, s is 0. A tensor with several consumers follows the worst of them; the others'
    weights need only the rest. Ends with the first pass, after all raises, without an event. A layer that would need
    more than `ALPHA_CAP` gets 32 bits and the reason is recorded. Raises InputError when `max_passes` were not enough.
    """
    report = SettleReport()
    table = layers(model)
    while report.passes < config.max_passes:
        meters = count_overflow(model, images())
        report.see(meters)
        needs = {
            name: (config.margin * meter.peaks).clamp(min=1.0)
            for name, meter in meters.items()
            if meter.peaks is not None
        }
        needed = any(bool((need > 1).any()) for need in needs.values())
        if not any(report.events.values()) and (report.passes > 1 or not needed):
            return report
        open_needs = {name: need for name, need in needs.items() if model.sources[name] not in report.shares}
        report.shares |= choose_shares(model, images, open_needs, config.split)
        for name, why in _raise_alphas(model, needs, report.shares).items():
            layer = table[name]
            peak = f"peak {float(needs[name].max()) / config.margin:.3g} times the limit"
            report.replaced[name] = f"settle: {layer.accumulator.name} {why} ({peak})"
            layer.accumulator, layer.accumulator_reason = NAMED["int32"], report.replaced[name]
    left = {name: count for name, count in report.events.items() if count}
    raise InputError(
        f"settle.max_passes: {config.max_passes} passes were not enough, events left: {left}; expected none. "
        "Raise settle.max_passes or settle.margin"
    )


def _raise_alphas(model: QuantizedNetwork, needs: Mapping[str, Tensor], shares: Mapping[str, float]) -> dict[str, str]:
    """Raise alphas so that every channel's sums shrink by its need; returns why for layers that the cap forbids it."""
    table = layers(model)
    needs = {name: need for name, need in needs.items() if need.max() > 1}
    inputs = {name: input_quantizer(model, name) for name in needs}
    taken = {
        name: float(need.max()) ** shares.get(model.sources[name], EVEN) if inputs[name].scalable else 1.0
        for name, need in needs.items()
    }
    # below the floor of a scale a factor that rises shrinks no sum, nor does the input's, which the floor follows
    held = {name: table[name].held(input_qparams(model, name)) for name in needs}

    def rises(name: str, input_took: float) -> Tensor:
        return torch.where(needs[name].to(held[name]) > 1, held[name], 1.0) * left_to_weights(needs[name], input_took)

    impossible = {}
    for name, need in needs.items():
        weights = table[name].weight_quantizer
        raised = weights.alpha * weights.per_factor(rises(name, taken[name]))
        beyond = int((raised > ALPHA_CAP * held[name]).sum())  # what a floor has made coarse is not made coarser
        if beyond:
            channels = f" in {beyond} of {len(need)} channels" if weights.granularity == "channel" else ""
            impossible[name] = f"needs alpha above {ALPHA_CAP:g}{channels}"
        elif float(inputs[name].alpha) * taken[name] > ALPHA_CAP:
            impossible[name] = f"needs alpha above {ALPHA_CAP:g} for its input"
    wanted = [name for name in needs if name not in impossible]
    before = {id(q): float(q.alpha) for q in inputs.values()}
    for name in wanted:
        if inputs[name].scalable:
            inputs[name].alpha.clamp_(min=before[id(inputs[name])] * taken[name])
    for name in wanted:
        quantizer = inputs[name]
        table[name].weight_quantizer.raise_factors(rises(name, float(quantizer.alpha) / before[id(quantizer)]))
    return impossible
