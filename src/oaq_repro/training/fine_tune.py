"""The fine-tuned quantized network before settling: trained once and shared by all runs that differ afterwards only.

Runs differ afterwards in how they settle and, for methods whose training does not look at the accumulator, in the
accumulator and in the granularity of range factors, which such methods do not move: a sweep over widths fine-tunes
such a method once. Where factors are settled before training as well, each width trains by itself.
"""

from pathlib import Path

from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.results.store import training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import fine_tuned_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training.checkpoints import LAST
from oaq_repro.training.post_training import settled
from oaq_repro.training.shared import Trained, train_or_load
from oaq_repro.training.stage import calibration_images, fit


def fine_tuning_folder(run: Run, method: Method) -> Path:
    """Of the fine-tuning of a run, and of what is found for it before."""
    name = fine_tuned_hash(run.settings, run.fingerprint, method.fine_tune, method.sees_accumulator)
    return training_folder(run.settings.results, "fine_tuned", name, run.seed)


def fine_tune(run: Run, task: Task, method: Method) -> Trained:
    """Calibrate and fine-tune `task.dense`, or load what an earlier run left; its ranges are frozen afterwards."""
    quantized: QuantizedNetwork = task.dense  # type: ignore[assignment]
    settings = run.settings
    folder = fine_tuning_folder(run, method)

    def train() -> dict[str, float]:
        if (folder / LAST).exists():
            set_quantizing(quantized, True)
        else:
            batches = settings.quantization.calibration_batches
            calibrate(quantized, calibration_images(run, task.device, batches, "calibrating"))
            method.start(quantized)
            if method.settle is not None and method.settle.before_training:
                settled(run, quantized, method.settle, task.device)
        if method.fine_tune and task.schedule is not None:
            task.penalty = method.penalty
            fit(run, task, folder, "finetune", f"fine-tuning {settings.method.kind}", method.callbacks())
        return {}

    trained = train_or_load(folder, quantized, train)
    set_quantizing(quantized, True)
    freeze(quantized)
    return trained
