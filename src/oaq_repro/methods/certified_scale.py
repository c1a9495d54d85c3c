"""Certified scales: INT8 fine-tuning, then no input can overflow any accumulator. Our own method.

After fine-tuning, with ranges frozen, the exact worst case of every output channel's sums (`quant.bounds`) says by
which factor they have to shrink until they fit the layer's accumulator: the whole sum, every lane, block or pair. Of a
layer's worst excess e the input's range mapping factor takes e^s, the share s chosen by the error of the outputs of
the layers that read it (`quant.calibration.split`); then the factor of each output channel's weights is raised to the
smallest that certifies it. A larger scale means smaller codes, so the worst case only falls and bisection finds the
factor.

Choices: with one scale or one factor per tensor the worst channel decides for all; there is no cap on the weights'
factors, since a channel whose codes are all zero is certified, so the guarantee never fails; the network is not trained
on afterwards (`fine_tune: false` certifies a merely calibrated network).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.calibrate import ImageBatches
from oaq_repro.quant.calibration.split import ALPHA_CAP, EVEN, Split, choose_shares
from oaq_repro.quant.layers import QuantLayer
from oaq_repro.quant.network import QuantizedNetwork, input_qparams, input_quantizer, layers
from oaq_repro.quant.numerics import QParams

BISECTIONS = 20  # the factor is found to 2^(bits - 20), that is 0.00024 at 8 bits


@dataclass
class CertifiedScale(Method):
    """INT8 fine-tuning, then certified factors.

    share: of an excess, what the activation takes (`quant.calibration.split`); 0: only weights give way.
    """

    share: Split = "output_error"
    sees_accumulator: ClassVar[bool] = False

    def finish(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """Certify every layer."""
        certify_network(model, images, self.share)


@torch.no_grad()
def certify_network(model: QuantizedNetwork, images: ImageBatches, share: Split) -> None:
    """Raise range mapping factors until no input can overflow any layer's accumulator; ranges are final."""
    needs = {}
    for name, layer in layers(model).items():
        needs[name] = layer.worst_case(input_qparams(model, name)).clamp(min=1.0)
    taken: dict[str, float] = {}
    shares = choose_shares(model, images, needs, share)
    for name, need in needs.items():
        source = model.sources[name]
        if input_quantizer(model, name).scalable:
            taken[source] = max(float(need.max()) ** shares.get(source, EVEN), taken.get(source, 1.0))
    for name in needs:
        alpha = input_quantizer(model, name).alpha
        alpha.copy_((alpha * taken.pop(model.sources[name], 1.0)).clamp(max=max(ALPHA_CAP, float(alpha))))
    for name, layer in layers(model).items():
        certify_channels(layer, input_qparams(model, name))


@torch.no_grad()
def certify_channels(layer: QuantLayer, x: QParams) -> None:
    """Raise the weights' alphas until no input can overflow the layer's accumulator; channels that fit are left alone.

    x: the constants of the layer's input, final.
    """
    quantizer = layer.weight_quantizer

    def ratios(alpha: Tensor) -> Tensor:
        quantizer.alpha.copy_(alpha)
        return quantizer.per_factor(layer.worst_case(x))

    fits = quantizer.alpha.clone()
    too_small = fits.clone()
    open_ = ratios(fits) > 1.0
    # Beyond twice the largest code every code rounds to zero.
    fits = torch.where(open_, fits * 2.0**quantizer.bits, fits)
    for _ in range(BISECTIONS):
        middle = (too_small + fits) / 2
        over = ratios(middle) > 1.0
        too_small = torch.where(over & open_, middle, too_small)
        fits = torch.where(~over & open_, middle, fits)
    ratios(fits)  # leaves the alphas at values that were seen to fit
    layer.hold_scales(x)
