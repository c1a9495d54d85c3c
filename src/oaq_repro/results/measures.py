"""What records measure, by name: the stages of a run and the metrics; and the rules that all parts of a record keep."""

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Stage = Literal["float", "soft", "hard", "simulated", "integer_int32", "integer"]
Metric = Literal["top1", "auc", "map50", "map", "voc_ap", "voc07_ap", "miou", "clip_top1", "clip_map", "agreement"]
STAGES: tuple[Stage, ...] = ("float", "soft", "hard", "simulated", "integer_int32", "integer")
USUAL_STAGES: tuple[Stage, ...] = ("float", "simulated", "integer_int32", "integer")
"""Those of runs without a stage before folding."""
METRICS: tuple[Metric, ...] = (
    "top1", "auc", "map50", "map", "voc_ap", "voc07_ap", "miou", "clip_top1", "clip_map", "agreement",
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


class Section(BaseModel):
    """Common rules: no unknown fields, no silent conversion, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def stage_columns(found: Collection[Stage]) -> list[Stage]:
    """The stages that get a column in a table: the usual ones, and those before folding where they were found."""
    return [stage for stage in STAGES if stage in USUAL_STAGES or stage in found]
