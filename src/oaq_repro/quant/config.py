"""How a network is to be quantized, whatever the method: bits, accumulator, observers, layers that differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from oaq_repro.accumulator import Accumulator
from oaq_repro.errors import InputError
from oaq_repro.quant.quantizers import Granularity, ObserverConfig

ROLES = ("@first", "@last")


@dataclass(frozen=True)
class Override:
    """Other settings for the layers whose qualified name matches.

    match: a glob over qualified names (`backbone.*.conv_dw`), or `@first` (layers that read the image), or
    `@last` (layers whose result leaves the dense part). The fields that are None keep the common setting;
    `skip` leaves the layer in float. `reason` goes into the record.
    """

    match: str
    weight_bits: int | None = None
    activation_bits: int | None = None
    accumulator: Accumulator | None = None
    skip: bool = False
    reason: str = "override"


@dataclass(frozen=True)
class QuantizationConfig:
    """How a network is quantized, whatever the method.

    weight_bits, activation_bits: of the codes, 2 to 8. per_channel: one weight scale per output channel, else
    one per tensor. granularity: of the weights' range mapping factors, `channel` (one per output channel, wherever
    scales are per channel) or `tensor` (one per layer, as in the OAQ paper). calibration_batches: batches of images
    that set the first activation ranges. overrides: layers that differ, under any names; where several match a layer,
    the last one wins.
    """

    accumulator: Accumulator
    weight_bits: int = 8
    activation_bits: int = 8
    per_channel: bool = True
    granularity: Granularity = "channel"
    calibration_batches: int = 8
    observer: ObserverConfig = field(default_factory=ObserverConfig)
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Accept overrides as the plain fields of a configuration file; InputError for unknown ones."""
        if not isinstance(self.accumulator, Accumulator):
            raise InputError(
                f"quantization.accumulator: found {self.accumulator!r}, expected an Accumulator; on the command line "
                "set accumulator=<name>"
            )
        if self.granularity not in ("channel", "tensor"):
            raise InputError(f"quantization.granularity: found {self.granularity!r}, expected 'channel' or 'tensor'")
        made = {name: _override(name, value) for name, value in self.overrides.items()}
        object.__setattr__(self, "overrides", made)


def _override(name: str, value: Override | Mapping[str, Any]) -> Override:
    if isinstance(value, Override):
        return value
    known = [f.name for f in fields(Override)]
    if not isinstance(value, Mapping) or set(value) - set(known) or "match" not in value:
        raise InputError(
            f"quantization.overrides.{name}: found {value!r}; expected 'match' and any of {', '.join(known[1:])}"
        )
    plain = dict(value)
    if plain.get("accumulator") is not None:
        plain["accumulator"] = Accumulator.parse(plain["accumulator"])
    return Override(**plain)
