"""How a network is to be quantized, whatever the method: bits, accumulator, observers, layers that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import IN_ORDER, NO_SCIENCE, Bits, Count, ReadBy, Text
from oaq_repro.quant.quantizers import Granularity, ObserverConfig
from oaq_repro.requantization import Requantization

ROLES = ("@first", "@last")


def accumulator_or_name(value: Any) -> Any:
    """An accumulator for its name in a configuration; anything else as it is."""
    return Accumulator.parse(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Override:
    """Other settings for the layers whose qualified name matches.

    match: a glob over qualified names (`backbone.*.conv_dw`), or `@first` (layers that read the image, or
    have no layer before them), or `@last` (layers whose result leaves the dense part, or that have no layer behind
    them). The fields that are None keep the common setting;
    `skip` leaves the layer in float. `reason` goes into the record. input_bits: of what a layer reads, where that has
    more (`quant.mixed_precision.input_bits`); activation_bits are those of what it makes.
    """

    match: Text
    weight_bits: Bits | None = None
    input_bits: Bits | None = None
    activation_bits: Bits | None = None
    accumulator: Annotated[Accumulator | None, ReadBy(accumulator_or_name)] = None
    skip: bool = False
    reason: Annotated[Text, NO_SCIENCE] = "override"


@dataclass(frozen=True)
class QuantizationConfig:
    """How a network is quantized, whatever the method.

    weight_bits, activation_bits: of the codes, 2 to 8. per_channel: one weight scale per output channel, else
    one per tensor. granularity: of the weights' range mapping factors, `channel` (one per output channel, wherever
    scales are per channel) or `tensor` (one per layer, as in the OAQ paper). requantization: how sums become codes
    (`oaq_repro.requantization`); layers that cannot take fixed16 take dyadic. calibration_batches: batches of images
    that set the first activation ranges. overrides: layers that differ, under any names; where several match a layer,
    the last one wins.
    """

    accumulator: Accumulator
    weight_bits: Bits = 8
    activation_bits: Bits = 8
    per_channel: bool = True
    granularity: Granularity = "channel"
    requantization: Requantization = "float32"
    calibration_batches: Count = 8
    observer: ObserverConfig = field(default_factory=ObserverConfig)
    overrides: Annotated[Mapping[str, Override], IN_ORDER] = field(default_factory=dict)
