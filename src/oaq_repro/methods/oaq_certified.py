"""Certified overflow aware quantization: OAQ whose signal is the worst case instead of the overflow seen. Our own.

OAQ (`methods.oaq`) raises range mapping factors while a batch overflows. Here they rise while *any* input could
overflow the layer's accumulator, as the exact bound on the present codes says (`quant.bounds`), and fall while none
could; so the whole network adapts to the guarantee while it trains. What a layer lacks at the end its weights' factors
make up (`methods.certified_scale`), so every layer's certificate holds by construction; without fine-tuning activations
take their share there too.

Choices: the rule is OAQ's `scale_free` one with bound / limit of every channel in the place of its largest sum seen,
since a bound has no number of events; steps, split and the end of the decrease are OAQ's fields. The overflow that is
logged is the one seen, for comparison.
"""

from dataclasses import dataclass, field
from typing import Literal

import pytorch_lightning as pl
import torch

from oaq_repro.methods.certified_scale import certify_network
from oaq_repro.methods.controller import BatchOverflow
from oaq_repro.methods.oaq import OAQ, OAQController
from oaq_repro.quant.calibration.calibrate import ImageBatches
from oaq_repro.quant.network import QuantizedNetwork, input_qparams, layers


@dataclass
class OAQCertified(OAQ):
    """Range mapping factors trained until no input can overflow. Fields: those of OAQ without `rule`."""

    rule: Literal["paper", "scale_free"] = field(init=False, default="scale_free")

    def callbacks(self) -> list[pl.Callback]:
        """The controller of the alphas."""
        return [CertificateController(self)]

    def finish(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """Certify every layer."""
        certify_network(model, images, 0.0 if self.fine_tune else self.split)


class CertificateController(OAQController):
    """OAQ's controller, told the bound where OAQ is told what the batch did."""

    @torch.no_grad()
    def update(
        self, model: QuantizedNetwork, overflow: dict[str, BatchOverflow], batch_size: int, progress: float
    ) -> None:
        """Move the alphas by each layer's bound."""
        bounds = {}
        for name, layer in layers(model).items():
            x = input_qparams(model, name)
            ratios = layer.worst_case(x).cpu()
            bounds[name] = BatchOverflow((ratios > 1.0).double(), ratios)
        super().update(model, bounds, batch_size, progress)
