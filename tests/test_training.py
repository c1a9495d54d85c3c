import os

import pytest
import torch

from oaq_repro.checkpoints import AtomicCheckpointIO
from oaq_repro.errors import InputError
from oaq_repro.training import OMP_THREADS, _trainer, torch_threads


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
    with (
        pytest.raises(InputError, match="threads: found .*, expected an integer from 1 to 1024, or null"),
        torch_threads(count),
    ):
        pass


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
