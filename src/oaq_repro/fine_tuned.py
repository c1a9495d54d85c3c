"""The fine-tuned quantized network before settling: trained once and shared by all runs that differ afterwards only.

Runs differ afterwards in how they settle and, for methods whose training does not look at the accumulator, in the
accumulator and in the granularity of range factors, which such methods do not move: a sweep over widths fine-tunes
such a method once.
"""

from collections.abc import Mapping
from typing import Any

from oaq_repro import parent
from oaq_repro.checkpoints import LAST
from oaq_repro.data.base import DataModule
from oaq_repro.logging import make_loggers
from oaq_repro.methods.base import Method
from oaq_repro.quant.calibrate import calibrate, freeze
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.tasks.base import Task
from oaq_repro.trained import Trained, train_or_load, training_folder
from oaq_repro.training import fit, images_of

ACCUMULATOR_FIELDS = ("accumulator", "reason", "granularity")


def science(config: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """What the weights depend on: everything before settling, without accumulators that training does not see."""
    stages = ("float", "finetune") if method.fine_tune else ("float",)
    quantization = config["quantization"]
    return {
        **parent.science(dict(config)),
        "schedule": {stage: config["schedule"][stage] for stage in stages},
        "method": {key: value for key, value in config["method"].items() if key != "settle"},
        "quantization": quantization if method.sees_accumulator else without_accumulators(quantization),
    }


def without_accumulators(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The `quantization` section as if nobody had chosen accumulators; overrides of nothing else are left out."""
    overrides = {
        name: {key: value for key, value in override.items() if key not in ACCUMULATOR_FIELDS}
        for name, override in (quantization.get("overrides") or {}).items()
    }
    kept = {name: rest for name, rest in overrides.items() if set(rest) != {"match"}}
    return {**{k: v for k, v in quantization.items() if k not in ACCUMULATOR_FIELDS}, "overrides": kept}


def fine_tune(
    config: dict[str, Any], data: DataModule, task: Task, method: Method, calibration_batches: int, fingerprint: str
) -> Trained:
    """Calibrate and fine-tune `task.dense`, or load what an earlier run left; its ranges are frozen afterwards."""
    quantized: QuantizedNetwork = task.dense  # type: ignore[assignment]
    folder = training_folder("fine_tuned", config, science(config, method), fingerprint)

    def train() -> dict[str, float]:
        trainer = config["trainer"]
        if (folder / LAST).exists():
            set_quantizing(quantized, True)
        else:
            loader = data.calibration_dataloader()
            calibrate(quantized, images_of(loader, task.device, calibration_batches, trainer, "calibrating"))
            method.start(quantized)
        if method.fine_tune and task.schedule is not None:
            task.penalty = method.penalty
            loggers = make_loggers(config, folder, "finetune")
            name = f"fine-tuning {config['method']['_target_'].rpartition('.')[2]}"
            fit(task, task.schedule, data, folder, trainer, config["seed"], loggers, method.callbacks(), name)
        return {}

    trained = train_or_load(folder, quantized, train)
    set_quantizing(quantized, True)
    freeze(quantized)
    return trained
