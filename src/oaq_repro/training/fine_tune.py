"""The fine-tuned quantized network before settling: trained once and shared by all runs that differ afterwards only.

Runs differ afterwards in how they settle and, for methods whose training does not look at the accumulator, in the
accumulator and in the granularity of range factors, which such methods do not move: a sweep over widths fine-tunes
such a method once.
"""

from typing import Any

from oaq_repro.data.base import DataModule
from oaq_repro.methods.base import Method
from oaq_repro.quant.calibrate import calibrate, freeze
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.settings.identity import fine_tuned_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training.checkpoints import LAST
from oaq_repro.training.loggers import make_loggers
from oaq_repro.training.shared import Trained, train_or_load, training_folder
from oaq_repro.training.stage import fit, images_of


def fine_tune(
    config: dict[str, Any], data: DataModule, task: Task, method: Method, calibration_batches: int, fingerprint: str
) -> Trained:
    """Calibrate and fine-tune `task.dense`, or load what an earlier run left; its ranges are frozen afterwards."""
    quantized: QuantizedNetwork = task.dense  # type: ignore[assignment]
    name = fine_tuned_hash(config, fingerprint, method.fine_tune, method.sees_accumulator)
    folder = training_folder("fine_tuned", config, name)

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
            shown = f"fine-tuning {config['method']['kind']}"
            fit(task, task.schedule, data, folder, trainer, config["seed"], loggers, method.callbacks(), shown)
        return {}

    trained = train_or_load(folder, quantized, train)
    set_quantizing(quantized, True)
    freeze(quantized)
    return trained
