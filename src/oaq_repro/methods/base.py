"""What a method is: its quantizers, its training callbacks, and whether ranges are settled at the end."""

from dataclasses import dataclass
from typing import ClassVar

import pytorch_lightning as pl

from oaq_repro.quant.calibrate import SettleConfig
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, ObserverConfig, WeightQuantizer


@dataclass
class Method:
    """Base of all methods; by itself TF-Lite style INT8 quantization.

    settle: how range mapping factors are settled after fine-tuning, or None to leave them.
    """

    settle: SettleConfig | None = None
    quantizes: ClassVar[bool] = True

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """The quantizer of one activation tensor; `scalable`: whether its alpha may move."""
        return ActivationQuantizer(bits, activation, observer, scalable)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """The quantizer of one layer's weights."""
        return WeightQuantizer(bits, per_channel)

    def callbacks(self) -> list[pl.Callback]:
        """Callbacks of fine-tuning; called once per fine-tuning."""
        return []
