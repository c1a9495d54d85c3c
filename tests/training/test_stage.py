import os

import pytest
import torch
from composing import changed, read_of, settings_of

from oaq_repro.errors import InputError
from oaq_repro.run import Run
from oaq_repro.settings.schema import check
from oaq_repro.settings.sections import TrainerSettings
from oaq_repro.training.checkpoints import AtomicCheckpointIO
from oaq_repro.training.stage import OMP_THREADS, _trainer, check_devices, check_length, torch_threads


@pytest.mark.parametrize("variable", [None, "7"])
def test_threads_are_those_asked_for_and_then_as_before(variable, monkeypatch):
    monkeypatch.delenv(OMP_THREADS, raising=False)
    if variable is not None:
        monkeypatch.setenv(OMP_THREADS, variable)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert os.environ[OMP_THREADS] == str(before + 1)
        raise KeyError
    assert torch.get_num_threads() == before
    assert os.environ.get(OMP_THREADS) == variable


def test_null_leaves_the_threads_to_torch():
    before = torch.get_num_threads(), os.environ.get(OMP_THREADS)
    with torch_threads(None):
        assert (torch.get_num_threads(), os.environ.get(OMP_THREADS)) == before


@pytest.mark.parametrize("count", [0, -1, 1025, 1.5, True, "2"])
def test_wrong_numbers_of_threads(count):
    with pytest.raises(InputError, match="^threads: found .*, expected "):
        check(settings_of() | {"threads": count})


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["trainer.devices=1000"], "trainer.devices: found 1000, expected at most "),
        (["trainer.accelerator=cpu", "trainer.devices=1000"], r"at most \d+ on this machine .trainer.accelerator=cpu"),
        (
            ["trainer.accelerator=gpu"],
            "trainer.accelerator: found 'gpu', which is not there, expected auto or cpu",
        ),
    ],
)
def test_devices_that_are_not_there_are_named(overrides, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=message):
        check_devices(read_of(*overrides).trainer)
    check_devices(read_of("trainer.accelerator=cpu", "trainer.devices=auto").trainer)


TWO_BATCHES = ["task=classification", "data.subset=32", "data.batch_size=16", "schedule.float.warmup_steps=0"]


def test_more_batches_than_an_epoch_has_cannot_be_accumulated():
    run = Run.prepared(read_of(*TWO_BATCHES, "trainer.accumulate_grad_batches=3"))
    with pytest.raises(InputError, match="accumulate_grad_batches: found 3, expected at most the 2 batches"):
        check_length(run, "float")


@pytest.mark.parametrize(
    "overrides, stage, message",
    [
        (["schedule.float.warmup_steps=1000000"], "float", "schedule.float.warmup_steps: found 1000000, expected few"),
        (["schedule.float.epochs=2", "schedule.float.warmup_steps=4"], "float", "the 4 steps of schedule.float .2 "),
        (["schedule.finetune.epochs=3", "method.warmup_steps=6"], "finetune", "^method.warmup_steps: found 6, expect"),
        (["schedule.float.epochs=2", "schedule.float.warmup_steps=2", "trainer.accumulate_grad_batches=2"], "float",
         "fewer than the 2 steps of schedule.float .1 an epoch"),
    ],
)  # fmt: skip
def test_what_begins_after_the_end_of_a_training_is_named(overrides, stage, message):
    run = Run.prepared(read_of(*changed(TWO_BATCHES, "schedule.finetune.warmup_steps=0", *overrides)))
    with pytest.raises(InputError, match=message):
        check_length(run, stage)


def test_the_last_step_may_be_the_first_after_a_warm_up():
    warm = ["schedule.float.epochs=2", "schedule.float.warmup_steps=3"]
    check_length(Run.prepared(read_of(*changed(TWO_BATCHES, *warm))), "float")


def test_training_data_are_not_looked_at_where_there_is_no_training(monkeypatch):
    run = Run.prepared(read_of("data.subset=32", "data.batch_size=16", "schedule.float=null"))
    monkeypatch.setattr(type(run.data), "train_dataloader", None)
    check_length(run, "float")


def test_images_without_labels_are_for_a_teacher_alone():
    """Data that are for calibration alone can be looked at, and learned from with a teacher; else that is an error."""
    pretrained = [*TWO_BATCHES, "schedule.float=null", "schedule.finetune.warmup_steps=0"]
    run, taught = (Run.prepared(read_of(*pretrained, *more)) for more in ([], ["task.teacher=float"]))
    run.data.trains = taught.data.trains = False
    check_length(run, "float")
    check_length(taught, "float", "finetune")
    with pytest.raises(InputError, match="no images to train on; expected .*task.teacher=float"):
        check_length(run, "float", "finetune")


def test_slurm_gets_no_checkpoint_and_no_job_of_lightnings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another training")
    for name, value in {"JOB_ID": "17", "JOB_NAME": "sweep", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = _trainer(TrainerSettings(accelerator="cpu"), logger=False, enable_checkpointing=False)
    environment = trainer._accelerator_connector.cluster_environment
    assert type(environment).__name__ == "SLURMEnvironment" and not environment.auto_requeue
    assert trainer._checkpoint_connector._hpc_resume_path is None
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
