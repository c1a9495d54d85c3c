"""SIGTERM, SIGUSR1 under Slurm and Ctrl-C: one line, the exit status, a state that the next start goes on from."""

import os
import shutil
import signal
import time

import pytest
from composing import changed
from faults.sweeping import RUNS, SLURM, assert_undisturbed, call, finish, leftovers, records, start

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143}
IMPORTS = ["hydra", "omegaconf", "numpy", "torch", "torch.distributed", "pytorch_lightning", "torchvision",
           "matplotlib", "pandas", "onnx", "timm", "oaq_repro.experiment"]  # fmt: skip


def said(error, name):
    """The one line about the signal; warnings of packages may stand before it."""
    return [line for line in error.splitlines() if line == f"stopped by {name}; the same command goes on from here"]


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_while_training_and_while_writing(results, reference, name):
    variables = SLURM if name == "SIGUSR1" else {}
    for event in ("os.rename:last.ckpt", "os.rename:weights.safetensors", "os.rename:graph.npz", "open:metrics.csv"):
        status, error = call(results, fault=f"{name}:{event}", **variables)
        assert status == SIGNALS[name] and len(said(error, name)) == 1, (event, error)
        (record,) = [r for r in records(results).values() if r["status"] == "interrupted"]
        assert record["provenance"]["error"] == f"stopped by {name}"
        unfinished = {"last.ckpt", "weights.safetensors"}  # the training goes on from these
        assert {path.rpartition("/")[2] for path in leftovers(results)} <= unfinished
    assert call(results, **variables)[0] == 0
    assert_undisturbed(results, reference)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_while_importing(results, name):
    for module in IMPORTS:
        status, error = call(results, *RUNS, fault=f"{name}:import:{module}")
        assert status == SIGNALS[name] and len(said(error, name)) == 1, (module, error)
        assert "  File" not in error


@pytest.mark.parametrize("send", [os.kill, os.killpg])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_trainings_in_several_processes_end_together(results, name, send):
    distributed = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    process = start(results, *changed(RUNS, "schedule.float.epochs=1000", *distributed))
    while not list(results.glob("parents/*/0/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    send(process.pid, signal.Signals[name])
    status, error = finish(process)
    assert status == SIGNALS[name] and len(said(error, name)) == 1
    (record,) = records(results).values()
    assert (record["status"], record["provenance"]["error"]) == ("interrupted", f"stopped by {name}")


def test_a_checkpoint_of_lightnings_in_the_working_folder_is_not_loaded(results, reference, tmp_path):
    assert call(results, fault="SIGKILL:os.rename:weights.safetensors")[0] == -9
    (left,) = results.glob("parents/*/0/last.ckpt")
    working = tmp_path / "other"
    working.mkdir()
    shutil.copy(left, working / "hpc_ckpt_1.ckpt")
    shutil.rmtree(results)
    assert call(results, cwd=working, **SLURM)[0] == 0
    assert_undisturbed(results, reference)
    assert [path.name for path in working.iterdir()] == ["hpc_ckpt_1.ckpt"]
