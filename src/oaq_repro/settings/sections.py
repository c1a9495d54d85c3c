"""All settings of a run: the sections of one form. Those with kinds are added by `schema`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from oaq_repro.accumulator import Accumulator
from oaq_repro.fields import NO_SCIENCE, Count, Seed, Text, Threads
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.tasks.schedule import Schedules


class Section(BaseModel):
    """No unknown fields, no NaN; no text for a number, no number for a truth value.

    The configuration also holds for the dataclasses inside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TrainerSettings(Section):
    """Arguments of `pytorch_lightning.Trainer`. What else it takes would leave the way of a run: the length of training
    is in the schedule, `data.subset` makes it smaller."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], NO_SCIENCE] = "auto"
    devices: Annotated[Threads | Literal["auto"], NO_SCIENCE] = 1
    num_nodes: Annotated[Threads, NO_SCIENCE] = 1
    strategy: Annotated[Literal["auto", "ddp"], NO_SCIENCE] = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    deterministic: bool | Literal["warn"] = "warn"
    accumulate_grad_batches: Count = 1
    enable_progress_bar: Annotated[bool, NO_SCIENCE] = True
    log_every_n_steps: Annotated[Count, NO_SCIENCE] = 10

    def on_cpu(self) -> "TrainerSettings":
        """The same in one process on the CPU, where results are exact on any machine."""
        return self.model_copy(update={"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"})


class WandbSettings(Section):
    """Weights & Biases. offline: None where only a login decides. group: None: one per experiment."""

    project: Text = "oaq_repro"
    entity: Text | None = None
    offline: bool | None = None
    group: Text | None = None


class LoggerSettings(Section):
    """wandb: None: metrics as CSV only, which are always written."""

    wandb: WandbSettings | None = None


class RunSettings(Section):
    """The whole. seed: of weights, data order and augmentation. results: folder of runs, parents and tables.

    threads: of torch and the integer engine; None: as torch finds. latency: time the engine on one image at the end.
    choices: names of the configuration files, for tables.
    """

    task: Any
    data: Any
    model: Any
    schedule: Schedules
    method: Any
    accumulator: Accumulator
    quantization: QuantizationConfig
    trainer: TrainerSettings
    logger: LoggerSettings
    seed: Seed = 0
    results: Text = "results"
    threads: Threads | None = None
    latency: bool = True
    choices: dict[str, str | None] = Field(default_factory=dict)
