"""`python -m oaq_repro` as a user meets it: in processes of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from composing import TINY, changed

from oaq_repro.results.record import load_record

# 4 steps an epoch, a checkpoint every 25 epochs: interrupted inside fine-tuning
LONG = changed(TINY, "schedule.finetune.epochs=40", "method=oaq", "accumulator.bits=14")


def command(*arguments):
    return [sys.executable, "-m", "oaq_repro", *arguments]


def call(*arguments, cwd=None):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=300)


def test_help_is_quick_and_lists_the_groups():
    started = time.monotonic()
    done = call("--help")
    assert done.returncode == 0
    assert time.monotonic() - started < 20  # a hang, not a speed; heavy imports are tested below
    for word in ("task: classification, detection, segmentation", "method:", "oaq"):
        assert word in done.stdout


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_waiting_threads_sleep_unless_the_user_has_chosen(chosen):
    """As torch is imported, which reads the variable."""
    code = (
        "import os, sys, runpy\n"
        "def watch(event, about):\n"
        "    if event == 'import' and about[0] == 'torch':\n"
        "        print(os.environ.get('OMP_WAIT_POLICY'), flush=True); os._exit(0)\n"
        "sys.addaudithook(watch)\n"
        "sys.argv = ['oaq_repro', 'task=classification']\n"
        "runpy.run_module('oaq_repro', run_name='__main__')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if chosen is None else {"OMP_WAIT_POLICY": chosen}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.stdout.split() == [chosen or "PASSIVE"], done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['oaq_repro', '--help']\n"
        "try: runpy.run_module('oaq_repro', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pytorch_lightning', 'timm', 'mmseg', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.rstrip().endswith("[]"), done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["methd=oaq"], "methd"),
        (["method=oak"], "Could not find 'method/oak'"),
        (["model.widht=1"], "widht"),
        (["method=null"], "error: method: found null, expected one of a2q, "),
    ],
)
def test_misspelt_keys_are_named_without_a_traceback(arguments, message, tmp_path):
    done = call(f"results={tmp_path}", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["data=imagenet", "data.root=nowhere"], "nowhere"),
        (["accumulator.bits=99"], "accumulator.bits: found 99"),
        (["+method.momentum=1"], "method.momentum: no such field"),
        (["model.checkpoint=nothing.ckpt"], "nothing.ckpt"),
        (["seed=-1"], "seed: found -1, expected greater than or equal to 0"),
        (["seed=0", "seed=1"], "seed: found twice on the command line, expected once"),
        (["+trainer.limit_train_batches=0"], "trainer.limit_train_batches: no such field"),
        (["model.checkpoint={_target_: pathlib.Path.touch, self: touched}"], "model.checkpoint: found {"),
        (["+quantization.overrides.x={match: nolayer}"], "overrides.x.match: 'nolayer' matches no layer"),
    ],
)
def test_bad_input_is_one_message(arguments, message, tmp_path):
    done = call(*TINY, f"results={tmp_path}", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.stderr
    written = {"runs", "parents", "fine_tuned", "known"}  # the results folder is the working folder here
    assert {path.name for path in tmp_path.iterdir()} <= written


def interrupted_then_resumed(tmp_path, how):
    """Start a run, stop it by `how` inside fine-tuning, start it again; the records of both starts."""
    results = tmp_path / "stopped"
    process = subprocess.Popen(
        command(*LONG, f"results={results}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while not list(results.glob("fine_tuned/*/0/last.ckpt")):
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint of fine-tuning appeared"
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.wait(timeout=60)
    between = [load_record(path) for path in results.glob("runs/*/0/record.json")]
    assert call(*LONG, f"results={results}").returncode == 0
    (path,) = results.glob("runs/*/0/record.json")
    return between, load_record(path), process.returncode


@pytest.mark.slow
def test_data_of_another_task(tmp_path):
    done = call("task=classification", "data=voc_detection", f"results={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1
    assert "error: data: found voc_detection, which is for detection, with task=classification; expected" in done.stderr


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The record of a run that nothing stops."""
    whole = tmp_path_factory.mktemp("whole")
    assert call(*LONG, f"results={whole}").returncode == 0
    (path,) = whole.glob("runs/*/0/record.json")
    return load_record(path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, uninterrupted, how):
    between, resumed, status = interrupted_then_resumed(tmp_path, how)
    assert status == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert [record.status for record in between] == ["interrupted"] * (how != signal.SIGKILL)
    assert all(record.provenance.error == f"stopped by {how.name}" for record in between)
    assert resumed.hash == uninterrupted.hash
    assert resumed.metrics == uninterrupted.metrics
    assert resumed.layers == uninterrupted.layers


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    distributed = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    done = call(*TINY, *distributed, f"results={tmp_path}")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/*/record.json")
    record = load_record(path)
    assert record.status == "finished"
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
