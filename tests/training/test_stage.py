import os

import pytest
import torch
from composing import settings_of

from oaq_repro.data.digits import Digits
from oaq_repro.errors import InputError
from oaq_repro.models.network import Network
from oaq_repro.settings.schema import check
from oaq_repro.tasks.classification import ClassificationTask
from oaq_repro.tasks.schedule import Schedule
from oaq_repro.training.checkpoints import AtomicCheckpointIO
from oaq_repro.training.stage import OMP_THREADS, _trainer, check_devices, fit, torch_threads


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
        check_devices(settings_of(*overrides)["trainer"])
    check_devices(settings_of("trainer.accelerator=cpu", "trainer.devices=auto")["trainer"])


def test_more_batches_than_an_epoch_has_cannot_be_accumulated(tmp_path):
    data = Digits(batch_size=16, image_size=16, seed=0, subset=32, val_subset=10, mean=(0.3,), std=(0.4,))
    trainer = settings_of("trainer.accumulate_grad_batches=3")["trainer"]
    task = ClassificationTask(Network(torch.nn.Flatten()), Schedule(lr=0.1, epochs=1), data.classes)
    with pytest.raises(InputError, match="accumulate_grad_batches: found 3, expected at most the 2 batches"):
        fit(task, task.schedule, data, tmp_path, trainer, 0, [])


def test_slurm_gets_no_checkpoint_and_no_job_of_lightnings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hpc_ckpt_1.ckpt").write_bytes(b"of another training")
    for name, value in {"JOB_ID": "17", "JOB_NAME": "sweep", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer = _trainer({"accelerator": "cpu"}, logger=False, enable_checkpointing=False)
    environment = trainer._accelerator_connector.cluster_environment
    assert type(environment).__name__ == "SLURMEnvironment" and not environment.auto_requeue
    assert trainer._checkpoint_connector._hpc_resume_path is None
    assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
