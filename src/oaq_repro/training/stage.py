"""Training one stage with Lightning: progress bar, checkpoint after every epoch, resumption, evaluation."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from oaq_repro import signals
from oaq_repro.errors import InputError
from oaq_repro.hints import quiet
from oaq_repro.run import Run
from oaq_repro.settings.sections import TrainerSettings
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule
from oaq_repro.training.checkpoints import LAST, plugins
from oaq_repro.training.loggers import make_loggers

OMP_THREADS = "OMP_NUM_THREADS"
LEAST_PROCESSES = 8  # on a CPU; more than there are cores only make it slow
STEPS_BETWEEN_CHECKPOINTS = 100  # for data sets of which an epoch is a few batches; long epochs each get one


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch computes with that many threads meanwhile; None: with as many as it has.

    The order of float sums depends on their number. Left alone it depends on the machine and on who started the
    process: joblib, for one, leaves each of its processes a part of the cores.
    """
    if count is None:
        yield
        return
    before, variable = torch.get_num_threads(), os.environ.get(OMP_THREADS)
    os.environ[OMP_THREADS] = str(count)  # where it is absent, Lightning's ddp chooses a number of its own
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            os.environ.pop(OMP_THREADS, None)
        else:
            os.environ[OMP_THREADS] = variable


def check_devices(trainer: TrainerSettings) -> None:
    """InputError where this machine lacks the devices of the section `trainer`, before processes are started there."""
    accelerator, devices = trainer.accelerator, trainer.devices
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    there["gpu"] = there["cuda"] or there["mps"]
    there["cpu"] = max(os.cpu_count() or 1, LEAST_PROCESSES)
    there["auto"] = there["gpu"] or there["cpu"]
    if not there[accelerator]:
        raise InputError(f"trainer.accelerator: found {accelerator!r}, which is not there, expected auto or cpu")
    if isinstance(devices, int) and devices > there[accelerator]:
        raise InputError(
            f"trainer.devices: found {devices}, expected at most {there[accelerator]} on this machine "
            f"(trainer.accelerator={accelerator})"
        )


class SeedEpochs(pl.Callback):
    """Makes a resumed training go on as the whole one: every epoch seeds torch's generator, and none is repeated."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed by epoch."""
        torch.manual_seed(self.seed * 100_003 + trainer.current_epoch)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say that the checkpoint's epoch is over.

        Checkpoints are written as an epoch ends. Lightning (2.6) takes one without a validation at that place for an
        unfinished epoch and trains on one batch more in it.
        """
        loop = checkpoint["loops"]["fit_loop"]
        for counts in loop["epoch_progress"].values():
            counts["processed"] = counts["completed"] = counts["ready"]
        batches = loop["epoch_loop.batch_progress"]["current"]
        batches.update(dict.fromkeys(batches, 0))


class OneEnd(pl.Callback):
    """Work in several processes ends in all of them when it ends in the first, and by our signals only.

    Lightning would answer SIGTERM with a broadcast from inside its handler, and leave the other processes alone with
    a connection that is lost.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put its handlers before ours."""
        signals.reinstall()

    on_validation_start = on_train_start

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The other processes write nothing that could be lost."""
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGKILL)


def check_length(run: Run, *stages: str) -> None:
    """InputError where something in these stages (`float`, `prepare`, `finetune`) begins after their last step."""
    for stage in stages:
        schedule: Schedule | None = getattr(run.settings.schedule, stage)
        if schedule is None and stage == "prepare":
            raise InputError(
                f"schedule.prepare: found null, expected fields of Schedule: method {run.settings.method.kind} "
                "trains a network before batch norm is folded"
            )
        if schedule is None:
            continue
        per_epoch = _steps_per_epoch(run, stage)
        late = {f"schedule.{stage}.warmup_steps": schedule.warmup_steps}
        if stage == "finetune":
            late["method.warmup_steps"] = getattr(run.settings.method, "warmup_steps", 0)
        total = schedule.total_steps(per_epoch)
        for name, steps in late.items():
            if steps >= total:
                raise InputError(
                    f"{name}: found {steps}, expected fewer than the {total} steps of schedule.{stage} "
                    f"({per_epoch} an epoch)"
                )


def _training_batches(run: Run, stage: str) -> DataLoader:
    """What a stage trains on; for a teacher also images without labels."""
    taught = stage == "finetune" and run.settings.task.teacher is not None
    return run.data.unlabelled_dataloader() if taught else run.data.train_dataloader()


def _steps_per_epoch(run: Run, stage: str) -> int:
    batches, accumulated = len(_training_batches(run, stage)), run.settings.trainer.accumulate_grad_batches
    if accumulated > batches:
        raise InputError(
            f"trainer.accumulate_grad_batches: found {accumulated}, expected at most the {batches} batches of an epoch"
        )
    return batches // accumulated


def fit(
    run: Run, task: Task, folder: Path, stage: str, description: str, callbacks: Iterable[pl.Callback] = ()
) -> None:
    """Train `task` by its schedule; go on from `folder/last.ckpt` where an earlier attempt was interrupted.

    stage: `float`, `prepare` or `finetune`, for the loggers. The weights after the last step are in `task`; the
    checkpoint stays in `folder`.
    """
    assert task.schedule is not None
    task.train()  # folding left the modules in evaluation mode
    trainer_settings, last, batches = run.settings.trainer, folder / LAST, _training_batches(run, stage)
    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename=Path(LAST).stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
        # at ends of epochs only, where a resumed training repeats nothing and skips nothing
        every_n_epochs=max(1, round(STEPS_BETWEEN_CHECKPOINTS / len(batches))),
    )
    trainer = _trainer(
        trainer_settings,
        logger=make_loggers(run.settings, folder, stage),
        callbacks=[checkpoint, SeedEpochs(run.seed), *_progress_bar(trainer_settings, description), *callbacks],
        **task.schedule.trainer_fields(_steps_per_epoch(run, stage)),
    )
    trainer.fit(
        task,
        train_dataloaders=batches,
        val_dataloaders=run.data.val_dataloader(),
        ckpt_path=str(last) if last.exists() else None,
    )
    trainer.save_checkpoint(last)  # a schedule in steps may end inside an epoch


def evaluate(run: Run, task: Task, description: str, on_cpu: bool = False) -> dict[str, float]:
    """Metrics of `task` on the held-out data, by the record's names, as fractions."""
    settings = run.settings.trainer.on_cpu() if on_cpu else run.settings.trainer
    trainer = _trainer(
        settings, logger=False, enable_checkpointing=False, callbacks=_progress_bar(settings, description)
    )
    (metrics,) = trainer.validate(task, dataloaders=run.data.val_dataloader(), verbose=False)
    return {name: float(value) for name, value in metrics.items()}


def calibration_images(run: Run, device: torch.device, batches: int | None, description: str) -> Iterator[Tensor]:
    """Batches of training images (at most `batches` of them; None: all), on `device`, behind a progress bar.

    Of clips the frames. Or of the images that were made in their place.
    """
    if run.made_images is not None:
        yield from (images.to(device) for images in run.made_images.split(run.data.batch_size)[:batches])
        return
    loader, shown = run.data.calibration_dataloader(), run.settings.trainer.enable_progress_bar
    total = len(loader) if batches is None else min(batches, len(loader))
    for images, _ in tqdm(islice(loader, batches), description, total, leave=False, disable=not shown):
        yield images.flatten(0, -4).to(device)


class _Bar(TQDMProgressBar):
    """Lightning's progress bar, saying which stage it shows."""

    def __init__(self, description: str) -> None:
        super().__init__(refresh_rate=10)
        self.description = description

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(f"{self.description}, epoch {trainer.current_epoch}")

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}

    @property
    def validation_description(self) -> str:
        return self.description


def _progress_bar(settings: TrainerSettings, description: str) -> list[pl.Callback]:
    return [_Bar(description)] if settings.enable_progress_bar else []


def _trainer(settings: TrainerSettings, **fields: Any) -> pl.Trainer:
    quiet()
    fixed = {
        "callbacks": [*fields.get("callbacks", ()), OneEnd()],
        "plugins": plugins(),
        "default_root_dir": os.devnull,  # no folder: Lightning would load any hpc_ckpt_1.ckpt that it finds there
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**{**settings.model_dump(), **fields, **fixed})
