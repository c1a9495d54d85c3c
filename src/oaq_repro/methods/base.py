"""What a method is: its quantizers, what it does at the stations of a run, and whether ranges are settled.

The stations in order: the float network is prepared, where the method or pruning trains one of its own before batch
norm is folded; bits per layer are searched for; the quantizers are made; calibration; `start`; settling, where it is
asked for before training; fine-tuning with `callbacks` and `penalty`; ranges are frozen; `finish`; settling; `adapt`
and bias correction, and after each settling again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor, nn

from oaq_repro.errors import SettingsError
from oaq_repro.quant.calibration.calibrate import ImageBatches
from oaq_repro.quant.calibration.settle import SettleConfig
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.mixed_precision.search import SearchConfig
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.pruning import PruningConfig, held_magnitudes, prune, quantize_live, stop_quantizing
from oaq_repro.quant.quantizers import Activation, ActivationQuantizer, WeightQuantizer


@dataclass
class Method:
    """Base of all methods; by itself TF-Lite style INT8 quantization.

    settle: how range mapping factors are settled after fine-tuning, or None to leave them. fine_tune: False for
    post-training quantization, which goes from calibration straight to `finish`. sees_accumulator: whether anything
    before `finish` looks at the layers' accumulators; where not, runs that differ in them share one fine-tuning.
    bias_correction: whether biases make up for what quantization adds to the mean of a layer's sums, after training
    (`quant.calibration.bias_correction`); with `fine_tune: false` only, since training corrects biases by itself.
    search: how bits per layer are found from the float parent (`quant.mixed_precision.search`), or None to take those
    of the settings.
    prepares: the fields on which the network depends that the method trains in a stage before folding; none: it has no
    such stage of its own. adapts: whether `adapt` does anything. keeps_zeros: whether a weight of zero has the code
    zero. pruning: which of the weights are left (`quant.pruning`), all where it is None. They are pruned in the stage
    before folding, with plain quantizers where anything is quantized, and stay zero after it.
    """

    settle: SettleConfig | None = None
    fine_tune: bool = True
    bias_correction: bool = False
    search: SearchConfig | None = None
    pruning: PruningConfig | None = None
    quantizes: ClassVar[bool] = True
    sees_accumulator: ClassVar[bool] = True
    prepares: ClassVar[frozenset[str]] = frozenset()
    keeps_zeros: ClassVar[bool] = True
    adapts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """What is for networks that are not trained is not for others (SettingsError)."""
        if self.bias_correction and self.fine_tune:
            raise SettingsError("bias_correction, fine_tune: found true and true, expected one of them")
        if self.settles_before_training and not self.fine_tune:
            raise SettingsError("settle.before_training, fine_tune: found true and false, expected a training")
        if self.search is not None and not self.quantizes:
            raise SettingsError("search: found one, expected null where nothing is quantized")
        if self.pruning is not None and self.search is not None:
            raise SettingsError("pruning, search: found both, expected one: pruned networks train with their bits")
        if self.pruning is not None and not self.keeps_zeros:
            raise SettingsError("pruning: found one, expected null with a method whose weights of zero become others")
        if self.pruning is not None and self.prepares:
            raise SettingsError(
                f"pruning: found one, expected null where weights are trained by {', '.join(self.prepares)}"
            )

    @property
    def has_preparation(self) -> bool:
        """Whether there is a stage before folding."""
        return bool(self.prepares) or self.pruning is not None

    @property
    def prepared_before(self) -> dict[str, Any] | None:
        """Fields whose preparation has to come before this one's, which goes on from its network; None: none has to.

        Whoever asks for a step of a sequence gets all before it, and each is trained once for all runs that share it.
        """
        before = None if self.pruning is None else self.pruning.before
        return None if before is None else {"pruning": before}

    @property
    def settles_before_training(self) -> bool:
        """Whether factors are settled before fine-tuning as well."""
        return self.settle is not None and self.settle.before_training

    def prepare(
        self, dense: nn.Module, start: Mapping[str, Tensor], config: QuantizationConfig, input_shape: Sequence[int]
    ) -> list[pl.Callback]:
        """Before the stage before folding: put parametrizations (`torch.nn.utils.parametrize`) on the float network.

        dense: as the model config made it, or as the preparation before this one left it. start: state dict of the
        former. input_shape: [C, H, W] of the images. Returns the callbacks of its training.
        """
        if self.pruning is not None:
            prune(dense, self.pruning, start)
            if self.quantizes:
                quantize_live(dense, Method(), config, input_shape)
        return []

    def preparation_penalty(self, dense: nn.Module) -> Tensor | float:
        """Added to the task's loss in that stage."""
        if self.pruning is None or not self.pruning.l1:
            return 0.0
        return self.pruning.l1 * held_magnitudes(dense)

    def harden(self, dense: nn.Module) -> None:
        """After that stage: let the parametrizations compute the weights that are to be quantized; these are kept."""
        if self.pruning is not None:
            stop_quantizing(dense)

    def activation_quantizer(
        self, bits: int, activation: Activation, observer: ObserverConfig, scalable: bool
    ) -> ActivationQuantizer:
        """The quantizer of one activation tensor; `scalable`: whether its alpha may move."""
        return ActivationQuantizer(bits, activation, observer, scalable)

    def weight_quantizer(self, bits: int, per_channel: bool) -> WeightQuantizer:
        """The quantizer of one layer's weights."""
        return WeightQuantizer(bits, per_channel)

    def start(self, model: QuantizedNetwork) -> None:
        """After calibration, before fine-tuning: parameters that need more than their own weights to start from."""

    def penalty(self, model: QuantizedNetwork) -> Tensor | float:
        """Added to the task's loss; called after every forward pass of fine-tuning."""
        return 0.0

    def finish(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """After fine-tuning, ranges frozen, before settling: what makes a guarantee hold on the deployed codes.

        images: those for calibration, for choices by the layers' outputs.
        """

    def adapt(self, model: QuantizedNetwork, images: ImageBatches) -> None:
        """After settling, which follows once more: what depends on the factors that weights are deployed with.

        images: those for calibration.
        """

    def callbacks(self) -> list[pl.Callback]:
        """Callbacks of fine-tuning; called once per fine-tuning."""
        return []
