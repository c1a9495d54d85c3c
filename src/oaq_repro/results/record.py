"""The record of one run: `record.json`, its schema, and its way to disk and back.

Tables, figures and later releases read records, so a field means one thing here and nowhere else. A
record is checked when it is made, when it is saved and when it is loaded; unknown fields are errors.
"""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from oaq_repro.errors import InputError
from oaq_repro.files import json_checksum, write_atomic
from oaq_repro.requantization import Requantization

RECORD_NAME = "record.json"

Status = Literal["finished", "failed", "interrupted"]
Stage = Literal["float", "soft", "hard", "simulated", "integer_int32", "integer"]
Metric = Literal["top1", "map50", "map", "voc_ap", "voc07_ap", "miou", "clip_top1", "clip_map", "agreement"]
STAGES: tuple[Stage, ...] = ("float", "soft", "hard", "simulated", "integer_int32", "integer")
USUAL_STAGES: tuple[Stage, ...] = ("float", "simulated", "integer_int32", "integer")
"""Those of runs without a stage before folding."""
METRICS: tuple[Metric, ...] = (
    "top1", "map50", "map", "voc_ap", "voc07_ap", "miou", "clip_top1", "clip_map", "agreement",
)  # fmt: skip
STAGE_LABELS: dict[Stage, str] = {
    "float": "float",
    "soft": "soft",
    "hard": "hard",
    "simulated": "simulated",
    "integer_int32": "integer int32",
    "integer": "integer",
}

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
RunHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class _Section(BaseModel):
    """Common rules: no unknown fields, no silent conversion, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Overflow(_Section):
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


class Layer(_Section):
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


class AssignedLayer(_Section):
    """One layer whose bits were chosen."""

    name: str
    bits: Count = Field(description="of its weights, and at most of its input")
    tied: str | None = Field(description="the first of the layers that have their bits in common; null: it alone")
    trace: float = Field(description="of the loss's Hessian, Hutchinson's estimate")
    trace_error: NonNegative = Field(description="standard error of it")
    sensitivity: dict[Count, float] = Field(description="by the bits that the layer could have")
    cost: dict[Count, float] = Field(description="likewise")


class BitAssignment(_Section):
    """Bits per layer as found before quantization (`quant.mixed_precision.search`). Sums are over these layers."""

    unit: Literal["bytes", "bit operations", "milliseconds"] = Field(description="of cost and bound")
    sensitivity: float
    cost: NonNegative
    bound: NonNegative = Field(description="what the cost was not to pass")
    table: str | None = Field(description="sha256 of the file of layers' times that the cost is from, if so")
    layers: list[AssignedLayer]


class Cost(_Section):
    """What one image costs, by formula and not by measurement (`quant.mixed_precision.cost`)."""

    macs: Count = Field(description="products")
    bops: Count = Field(description="bit operations as HAWQ-V3 counts them: products times both bits")
    bops_qap: NonNegative = Field(description="as QAP counts them: without products with zero weights, with additions")
    weight_bytes: NonNegative = Field(description="of the weights at their bits, packed; without biases")
    density: Fraction = Field(description="part of the weights that is not zero")


class WidthGraph(_Section):
    """One of the networks that compute frames, which differ in bits. Its images are frames."""

    bits: Count
    metrics: dict[Stage, dict[Metric, Fraction]] = Field(
        description="all frames of the held-out clips at this width; soft: the float network of stage 1 at this width"
    )
    overflow: Overflow
    layers: list[Layer]
    cost: Cost
    latency_ms: dict[str, NonNegative] = Field(description="as the record's")

    @property
    def certified(self) -> int:
        """Number of layers where overflow is impossible."""
        return sum(layer.certified for layer in self.layers)


Choice = Literal["policy", "uniform", "shuffled", "skip_only", "line", "oracle"]


class FrameChoice(_Section):
    """How frames are computed, by a policy or a control, and what that gives on held-out clips, on integers.

    policy: each frame as the policy chose. uniform: all frames at one width. shuffled: the policy's choices in random
    places, the mean over several orders. skip_only: the policy's skips, all other frames at one width. line: the
    straight line between the neighbouring points of skip_only, at the policy's cost. oracle: the best map from kinds of
    frames to choices that costs at most what the policy does, found on these held-out clips: a bound, no result.
    """

    choice: Choice
    bits: Count | None = Field(default=None, description="of uniform and skip_only")
    metrics: dict[Metric, Fraction]
    frames: dict[Count, NonNegative] = Field(description="parts of the frames by bits; 0: skipped; empty for the line")
    cost: NonNegative = Field(
        description="by the source's rule: min(b, 8)^2 / 64 a frame, float counts as 8 bits; 1: all frames at 8 bits"
    )
    macs: NonNegative = Field(description="products per frame, the policy's included")
    bops: NonNegative = Field(description="bit operations per frame (HAWQ-V3's), the float policy's at 32 bits")
    ms: NonNegative | None = Field(description="measured milliseconds per frame, engine and policy; null: not timed")


class FramePrecision(_Section):
    """Precision per frame (`methods.videoiq`)."""

    clips: Count = Field(description="held-out ones")
    frames: Count = Field(description="of a clip")
    widths: list[WidthGraph]
    policy_macs: Count = Field(description="per frame")
    policy_ms: NonNegative | None = Field(description="per frame, on one thread; null where nothing was timed")
    choices: list[FrameChoice]
    by_kind: dict[str, dict[Count, Count]] = Field(
        description="frames by kind, where that is known, then by the bits that the policy chose; 0: skipped"
    )


class Hardware(_Section):
    """The machine of a run."""

    cpu: str
    cores: Count
    memory_gib: NonNegative | None
    gpu: str | None = Field(description="null when no GPU was used")


class Provenance(_Section):
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


class Record(_Section):
    """One run: one configuration, one seed."""

    hash: RunHash = Field(description="see settings.identity; the seed is not part of it")
    seed: Count
    status: Status
    config: dict[str, JsonValue] = Field(description="the settings, with all defaults")
    science: dict[str, JsonValue] | None = Field(
        default=None,
        description="what of them the hash covers: where they change what is measured and differ from the defaults; "
        "null in records of early versions",
    )
    metrics: dict[Stage, dict[Metric, Fraction]] = Field(
        default_factory=dict,
        description="stages that were reached. soft: the float network as the stage before folding trains it, hard: "
        "with the weights that are then quantized; integer is on the chosen accumulator",
    )
    overflow: Overflow | None = Field(default=None, description="null when the run ended before the integer stage")
    layers: list[Layer] = Field(default_factory=list)
    assignment: BitAssignment | None = Field(default=None, description="null where no bits were searched for")
    cost: Cost | None = Field(
        default=None,
        description="of the quantized network, of the float one where nothing is quantized; null in records of earlier "
        "versions and where the run ended before",
    )
    frame_precision: FramePrecision | None = Field(
        default=None,
        description="of clips whose frames are computed at several precisions; then layers, overflow and "
        "cost stand there, by width",
    )
    latency_ms: dict[str, NonNegative] = Field(
        default_factory=dict, description="median milliseconds of one image on one thread, by the engine's mode"
    )
    swapped: list[str] = Field(default_factory=list, description="float modules that became quantized modules")
    left_float: list[str] = Field(default_factory=list, description="modules of the dense part that stayed in float")
    provenance: Provenance
    checksum: str | None = Field(
        default=None, description="sha256 of the other fields, in files only; null in those of early versions"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = [name for name, n in Counter(layer.name for layer in self.layers).items() if n > 1]
        if twice:
            raise ValueError(f"layers has the name {twice[0]!r} twice, expected unique names")
        try:
            json.dumps(self.config, allow_nan=False)
        except ValueError as error:
            raise ValueError("config holds NaN or infinity, expected finite numbers") from error
        if self.status == "finished" and not self.metrics:
            raise ValueError("status is 'finished' but metrics is empty")
        return self

    @property
    def certified(self) -> int:
        """Number of layers where overflow is impossible."""
        return sum(layer.certified for layer in self.layers)

    @property
    def held_out(self) -> int | None:
        """Held-out samples that integers were computed for: images, or clips whose frames have precisions."""
        if self.frame_precision is not None:
            return self.frame_precision.clips
        return None if self.overflow is None else self.overflow.images

    @property
    def metric_names(self) -> list[Metric]:
        """Metrics that any stage has, the headline metric first."""
        return [name for name in METRICS if any(name in values for values in self.metrics.values())]

    @property
    def headline(self) -> float | None:
        """The headline metric of the last stage that was reached."""
        reached = [stage for stage in STAGES if stage in self.metrics]
        return self.metrics[reached[-1]][self.metric_names[0]] if reached else None


def stage_columns(found: Collection[Stage]) -> list[Stage]:
    """The stages that get a column in a table: the usual ones, and those before folding where they were found."""
    return [stage for stage in STAGES if stage in USUAL_STAGES or stage in found]


def save_record(record: Record, path: Path | str) -> Path:
    """Write a record atomically as JSON; InputError when it is not valid (any more) or the disk refuses."""
    try:
        checked = Record.model_validate(record.model_dump(warnings=False))
    except ValidationError as error:
        raise InputError(_explain(error, Path(path))) from error
    checked.checksum = json_checksum(json.loads(checked.model_dump_json()))
    return write_atomic(path, checked.model_dump_json(indent=1) + "\n")


def load_record(path: Path | str) -> Record:
    """Read and check a record; InputError names the file and the field."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}), expected the record of a run") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text (byte {error.start}), expected the JSON record of a run"
        ) from error
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        raise InputError(_explain(error, path)) from error
    if record.checksum not in (json_checksum(json.loads(text)), None):
        raise InputError(f"{path}: field checksum: is not that of the other fields, expected a record as it was saved")
    record.checksum = None
    return record


def record_schema() -> dict[str, Any]:
    """JSON schema of `record.json`."""
    return Record.model_json_schema()


def _explain(error: ValidationError, path: Path) -> str:
    """One message from pydantic's first complaint: file, field, what was found, what is expected."""
    details = error.errors(include_url=False)
    first = details[0]
    if first["type"] == "json_invalid":
        return f"{path}: is not valid JSON ({first['ctx']['error']}), expected the record of a run"
    field = ".".join(str(part) for part in first["loc"]) or "record"
    if first["type"] == "extra_forbidden":
        problem = "is not a known field"
    elif first["type"] == "missing":
        problem = "is missing"
    elif first["type"] == "value_error":
        problem = first["msg"].removeprefix("Value error, ")
    else:
        found = repr(first["input"])
        expected = first["msg"].removeprefix("Input should be ")
        problem = f"found {found if len(found) <= 80 else found[:77] + '...'}, expected {expected}"
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{path}: field {field}: {problem}{more}"
