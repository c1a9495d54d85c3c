"""The parts of a record: overflow, layers, bits, cost, pruning, where it was made."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from oaq_repro.requantization import Requantization
from oaq_repro.results.measures import Count, Fraction, NonNegative, Section


class Overflow(Section):
    """Overflow events counted by the integer engine on the chosen accumulator.

    An event is an output element of a layer with at least one partial sum outside the accumulator, or to which the
    saturation of the requantization fixed16 gives another code (DESIGN: reported as outputs, as images affected, and
    beside the accuracy, because the ratio alone misleads).
    """

    settle: dict[str, Count] = Field(description="events per layer on the settle set (training images)")
    evaluation: dict[str, Count] = Field(description="events per layer on the held-out images")
    images_affected: Count = Field(description="held-out images with at least one event")
    images: Count = Field(description="held-out images evaluated")
    outputs: dict[str, Count] = Field(description="outputs per layer that were checked, all held-out images together")
    settle_images: Count = Field(default=0, description="images of the settle set")
    settle_outputs: dict[str, Count] = Field(
        default_factory=dict, description="outputs per layer that were checked, the whole settle set together"
    )

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if self.images_affected > self.images:
            raise ValueError(f"images_affected is {self.images_affected}, expected at most images = {self.images}")
        pairs = (
            ("settle", self.settle, "settle_outputs", self.settle_outputs),
            ("evaluation", self.evaluation, "outputs", self.outputs),
        )
        for events_name, events, outputs_name, outputs in pairs:
            for layer, count in events.items():
                if layer not in outputs:
                    raise ValueError(f"{events_name} has layer {layer!r} but {outputs_name} has no entry for it")
                if count > outputs[layer]:
                    raise ValueError(
                        f"{events_name}[{layer!r}] is {count}, expected at most {outputs[layer]}, its {outputs_name}"
                    )
        return self

    @property
    def settle_events(self) -> int:
        """Events on the settle set, all layers together."""
        return sum(self.settle.values())

    @property
    def evaluation_events(self) -> int:
        """Events on the held-out images, all layers together."""
        return sum(self.evaluation.values())


class Layer(Section):
    """One layer with an accumulator (convolution or linear), in the order of the integer graph."""

    name: str = Field(description="qualified name in the integer graph")
    kind: str = Field(description="for example conv, depthwise, linear")
    alpha_activation: float = Field(gt=0, description="range mapping factor of the input activation")
    alpha_weight: float = Field(gt=0, description="range mapping factor of the weight, the mean over output channels")
    alpha_weight_min: float | None = Field(
        default=None, gt=0, description="the smallest of the channels; null where one factor is for all of them"
    )
    alpha_weight_max: float | None = Field(default=None, gt=0, description="the largest of them; null likewise")
    bits_activation: float = Field(ge=0, description="effective bits of the activation codes, log2 of their number")
    bits_weight: float = Field(
        ge=0,
        description="effective bits of the weight codes, log2 of their number; the mean where alpha is per channel",
    )
    bits_weight_min: float | None = Field(default=None, ge=0, description="as alpha_weight_min")
    bits_weight_max: float | None = Field(default=None, ge=0, description="as alpha_weight_max")
    levels_weight: Count | None = Field(
        default=None,
        description="distinct weight codes of the layer; null in records of earlier versions, as bits_input",
    )
    bits_code: Count | None = Field(
        default=None, description="bits of a stored weight, where it stands for an integer of more; null elsewhere"
    )
    bits_input: Count | None = Field(default=None, description="bits of the input's grid, before any alpha")
    bias_shift: NonNegative | None = Field(
        default=None, description="largest shift of a bias by bias correction, in output codes; null without it"
    )
    overflow_seen: Count = Field(description="events on the held-out images")
    outputs: Count = Field(description="outputs checked on the held-out images")
    worst_case: NonNegative | None = Field(
        description="largest reachable partial sum over the limit, on any input; null when not computed"
    )
    certified: bool = Field(description="overflow is impossible on any input")
    longest_block: Count | None = Field(
        description="longest certified block of products (K when the whole sum fits); null as worst_case"
    )
    depth: Count | None = Field(
        default=None, description="K, products of an output; null in records of earlier versions"
    )
    accumulator: str = Field(description="name of the accumulator that this layer uses")
    requantization: Requantization | None = Field(
        default=None, description="how its sums become codes; null in records of earlier versions"
    )
    requantization_reason: str | None = Field(
        default=None, description="why that is not what was asked for; null where it is"
    )
    route: str = Field(description="the engine's registers where it runs as fast as calibration allows, and the claim")
    route_certified: str = Field(description="the engine's registers where no input can overflow")
    reason: str | None = Field(
        default=None, description="why the layer left the run's accumulator; null when it did not"
    )


class AssignedLayer(Section):
    """One layer whose bits were chosen."""

    name: str
    bits: Count = Field(description="of its weights, and at most of its input")
    tied: str | None = Field(description="the first of the layers that have their bits in common; null: it alone")
    trace: float = Field(description="of the loss's Hessian, Hutchinson's estimate")
    trace_error: NonNegative = Field(description="standard error of it")
    sensitivity: dict[Count, float] = Field(description="by the bits that the layer could have")
    cost: dict[Count, float] = Field(description="likewise")


class BitAssignment(Section):
    """Bits per layer as found before quantization (`quant.mixed_precision.search`). Sums are over these layers."""

    unit: Literal["bytes", "bit operations", "milliseconds"] = Field(description="of cost and bound")
    sensitivity: float
    cost: NonNegative
    bound: NonNegative = Field(description="what the cost was not to pass")
    table: str | None = Field(description="sha256 of the file of layers' times that the cost is from, if so")
    layers: list[AssignedLayer]


class Cost(Section):
    """What one image costs, by formula and not by measurement (`quant.mixed_precision.cost`)."""

    macs: Count = Field(description="products")
    bops: Count = Field(description="bit operations as HAWQ-V3 counts them: products times both bits")
    bops_qap: NonNegative = Field(description="as QAP counts them: without products with zero weights, with additions")
    bops_qap_reference: NonNegative | None = Field(
        default=None,
        description="as the authors' code counts them: biases count in the density, and the first layer's input has 32 "
        "bits; null in records of earlier versions",
    )
    weight_bytes: NonNegative = Field(
        description="of the weights at their bits, packed, and of codebooks; without biases"
    )
    weight_bytes_file: Count | None = Field(
        default=None,
        description="of the weights in the integer graph's file: one each, or a half where 4 bits hold all of a layer; "
        "null in records of earlier versions, and without an integer graph",
    )
    density: Fraction = Field(description="part of the weights that is not zero")


class Pruning(Section):
    """What pruning left, and how much the pruned network says, before batch norm is folded (`quant.pruning`)."""

    step: Count = Field(description="0: nothing was pruned")
    density: Fraction = Field(description="part of the weights that was to be left")
    weights: Count = Field(description="of all layers, biases not counted")
    left: Count = Field(description="of them not pruned; codes of these may be zero all the same, see cost.density")
    efficiency: dict[str, Fraction] = Field(
        description="entropy in bits of which units are on, over their number (eta), by batch norm and of the output; "
        "on the held-out data, of the network as it is trained (stage soft)"
    )

    @property
    def eta(self) -> float | None:
        """Efficiency of the network: the geometric mean of its layers'; None where none was measured."""
        values = list(self.efficiency.values())
        return math.prod(values) ** (1 / len(values)) if values else None


class Hardware(Section):
    """The machine of a run."""

    cpu: str
    cores: Count
    memory_gib: NonNegative | None
    gpu: str | None = Field(description="null when no GPU was used")


class Provenance(Section):
    """Where a run's numbers come from."""

    git_revision: str | None
    git_dirty: bool | None
    git_reason: str | None = Field(default=None, description="why git_revision is null")
    packages: dict[str, str]
    dataset: str
    dataset_fingerprint: str
    parent_hash: str | None = Field(default=None, description="sha256 of the float parent's weights")
    checkpoint_hash: str | None = Field(default=None, description="sha256 of the weights in the run's checkpoint")
    hardware: Hardware
    kernels: str | None = Field(
        default=None,
        description="instruction set of the integer engine's kernels, which evaluated and timed the run; null where "
        "no engine ran or the name was not noted",
    )
    wall_time_s: NonNegative
    started: str = Field(description="UTC, ISO 8601")
    error: str | None = Field(default=None, description="what ended a run that did not finish")
