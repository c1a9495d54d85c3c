"""Published numbers: `results/paper/*.yaml`, one file per table, checked by a schema.

A cell without a number says why. A number says how we know it: `second-hand` is read in somebody else's text,
`published` in the source itself. Which run answers a cell is a list of command line overrides (`run`).
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from oaq_repro.errors import InputError
from oaq_repro.results.measures import Metric, Stage

Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")]
COSTS = ("MB", "GBOPs")
"""Columns of a table of costs: 2^20 bytes of weights, 10^9 bit operations as HAWQ-V3 counts them."""
GROUPS = ("data", "model", "method", "accumulator", "schedule", "task")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Cell(_Section):
    """One cell: a number of the paper, or the reason why it is empty."""

    row: Text
    column: Text
    value: float | None = Field(description="in the table's unit; null: empty")
    status: Literal["published", "second-hand"] | None = Field(default=None, description="null where value is null")
    reason: Text | None = Field(default=None, description="why value is null")
    run: list[Text] = Field(default_factory=list, description="overrides of our run; none: no run of ours answers")
    preset: Name | None = Field(default=None, description="of conf/experiment/paper: makes that run; with run only")
    overrides: list[Text] = Field(default_factory=list, description="of the preset, where it is that of several cells")

    @field_validator("run", "overrides")
    @classmethod
    def _are_overrides(cls, overrides: list[str]) -> list[str]:
        for override in overrides:
            key, equals, value = override.partition("=")
            if not (key and equals and value):
                raise ValueError(f"run or overrides: {override!r}, expected overrides such as method=oaq")
        return overrides

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if (self.value is None) != (self.reason is not None) or (self.value is None) != (self.status is None):
            raise ValueError("expected a value with its status, or value: null with its reason")
        if (self.preset is None) == bool(self.run):
            raise ValueError(f"preset is {self.preset!r} with run {self.run}, expected both or none of them")
        if self.overrides and self.preset is None:
            raise ValueError(f"overrides is {self.overrides!r} without a preset, expected none")
        return self


Bits = Annotated[int, Field(ge=1, le=32)]


class PaperTable(_Section):
    """One table. Accuracy is in percent and compared with runs; milliseconds and ratios stand for themselves.

    Costs are compared with what the same bits cost by our formulas (`paper_costs`), which needs no run and no data.
    """

    name: Name = Field(description="the file's name")
    title: Text
    source: Text
    kind: Literal["accuracy", "latency", "speedup", "cost"]
    metric: Metric | None = Field(default=None, description="accuracy only")
    data: Name | None = Field(default=None, description="accuracy only: conf/data/<data>.yaml")
    dataset: Text | None = Field(default=None, description="accuracy only: class of the data, as records name it")
    images: Annotated[int, Field(gt=0)] | None = Field(default=None, description="accuracy only: held-out images")
    stage: Stage = Field(default="integer", description="accuracy only: which stage of a run is what was published")
    tolerance: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="what a published number may be off: points of accuracy, percent of a cost"
    )
    network: Name | None = Field(default=None, description="cost only: whose layers are counted")
    bits: dict[Text, Bits | list[Bits]] | None = Field(
        default=None,
        description="cost only: by row, of the layers between the first and the last in order, one number or one each",
    )
    blocked: Text | None = Field(default=None, description="accuracy only: why the data cannot be had, if so")
    unanswered: Text | None = Field(default=None, description="why no run of ours answers, where cells have no run")
    baseline: Text | None = Field(default=None, description="latency only: the column that the others are divided by")
    cells: Annotated[list[Cell], Field(min_length=1)]

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> Self:
        accuracy = {name: getattr(self, name) for name in ("metric", "data", "dataset", "images")}
        cost = {"network": self.network, "bits": self.bits}
        either = {"tolerance": self.tolerance}
        for fields, kinds in ((accuracy, {"accuracy"}), (cost, {"cost"}), (either, {"accuracy", "cost"})):
            for name, value in fields.items():
                if (value is None) == (self.kind in kinds):
                    expected = "a value" if self.kind in kinds else "none"
                    raise ValueError(f"{name} is {value!r} with kind {self.kind}, expected {expected}")
        for cell in self.cells:
            if cell.run and self.kind != "accuracy":
                raise ValueError(f"cell {cell.row!r} has a run with kind {self.kind}, expected none")
            if self.bits is not None and (cell.row not in self.bits or cell.column not in COSTS):
                raise ValueError(
                    f"cell {cell.row!r}, {cell.column!r}: expected a row of bits, and one of {', '.join(COSTS)}"
                )
            if not cell.run and self.unanswered is None and self.kind != "cost":
                raise ValueError(f"cell {cell.row!r} has no run, expected one, or why in unanswered")
            if self.kind == "accuracy" and cell.value is not None and not 0 <= cell.value <= 100:
                raise ValueError(f"cell {cell.row!r} has the value {cell.value}, expected percent")
        twice = [(a.row, a.column) for i, a in enumerate(self.cells) if (a.row, a.column) in self._keys(i)]
        if twice:
            raise ValueError(f"cells has {twice[0]} twice, expected each row and column once")
        if self.baseline is not None and (
            self.kind != "latency" or self.baseline not in {c.column for c in self.cells}
        ):
            raise ValueError(f"baseline is {self.baseline!r}, expected a column of a latency table")
        return self

    def _keys(self, count: int) -> set[tuple[str, str]]:
        return {(cell.row, cell.column) for cell in self.cells[:count]}


def load_table(path: Path) -> PaperTable:
    """Read and check one file; InputError names the file, the field, what was found and what is expected."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}), expected YAML") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected the fields of a table")
    try:
        return PaperTable.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "table"
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] not in ("value_error", "missing", "extra_forbidden"):
            problem = f"found {first['input']!r}, expected {problem.removeprefix('Input should be ')}"
        raise InputError(f"{path}: field {field}: {problem}") from error


def load_tables(results: Path) -> list[PaperTable]:
    """All tables of a results folder, in order of their names; none where there is no folder `paper`."""
    return [load_table(path) for path in sorted((results / "paper").glob("*.yaml"))]
