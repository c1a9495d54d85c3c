"""The record of one run: `record.json`, its schema, and its way to disk and back.

Tables, figures and later releases read records, so a field means one thing here and nowhere else. A
record is checked when it is made, when it is saved and when it is loaded; unknown fields are errors.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from oaq_repro.errors import InputError
from oaq_repro.files import json_checksum, write_atomic
from oaq_repro.results.frame_sections import FramePrecision
from oaq_repro.results.measures import METRICS, STAGES, Count, Fraction, Metric, NonNegative, RunHash, Section, Stage
from oaq_repro.results.sections import BitAssignment, Cost, Layer, Overflow, Provenance, Pruning

RECORD_NAME = "record.json"

Status = Literal["finished", "failed", "interrupted"]


class Record(Section):
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
    pruning: Pruning | None = Field(default=None, description="null where weights were not pruned")
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
    simulated_only: list[str] = Field(
        default_factory=list,
        description="what of the network has no integer form, and why: the run ended with the stage simulated",
    )
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
