"""Damaged files: one message that names the file and the remedy, or the same record; never another one."""

import random
import shutil

import pytest
from composing import changed, settings_of
from faults.sweeping import METHODS, RUNS, call, comparable, records

from oaq_repro.errors import InputError
from oaq_repro.experiment import run

SMALL = changed(RUNS, "data.subset=64", "schedule.float.epochs=3", "schedule.finetune.epochs=1")


def flipped(content, generator, count):
    """That many bits, anywhere."""
    changed = bytearray(content)
    for place in generator.sample(range(len(changed)), min(count, len(changed))):
        changed[place] ^= 1 << generator.randrange(8)
    return bytes(changed)


DAMAGES = {
    "one bit": lambda content, g: flipped(content, g, 1),
    "20 bits": lambda content, g: flipped(content, g, 20),
    "cut": lambda content, g: content[: len(content) // 2],
    "empty": lambda content, g: b"",
    "foreign": lambda content, g: g.randbytes(300),
}  # fmt: skip

# What a new run reads of other runs, and what a finished or an interrupted one has in its own folder.
SHARED = ["parents/*/0/weights.safetensors", "parents/*/0/metrics.json", "fine_tuned/*/0/weights.safetensors",
          "fine_tuned/*/0/metrics.json", "known/*.txt"]  # fmt: skip
OWN = ["record.json", "graph.npz", "quantized.ckpt", "alpha.png", "finetune/metrics.csv"]


def made(results, method):
    """The record of one run, in this process."""
    return comparable(run(settings_of(*SMALL, f"method={method}", f"results={results}")))


def one(paths):
    (path,) = paths
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of one run, and its record."""
    results = tmp_path_factory.mktemp("whole") / "results"
    return results, made(results, METHODS[0])


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    """Results of a run that was killed while it trained the float parent."""
    results = tmp_path_factory.mktemp("halted") / "results"
    assert call(results, *SMALL, f"method={METHODS[0]}", fault="SIGKILL:os.rename:weights.safetensors")[0] == -9
    return results


def damage(path, how, seed=0):
    path.write_bytes(DAMAGES[how](path.read_bytes(), random.Random(f"{path.name} {how} {seed}")))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("pattern", SHARED)
def test_what_runs_share(whole, results, pattern, how):
    shutil.copytree(whole[0], results)
    shutil.rmtree(results / "runs")
    path = one(results.glob(pattern))
    damage(path, how)
    try:
        found = made(results, METHODS[0])
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert "remove its folder to train there again" in str(error)
        shutil.rmtree(path.parent)
        found = made(results, METHODS[0])
    assert found == whole[1]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", OWN)
def test_what_a_finished_run_has(whole, results, name, how):
    shutil.copytree(whole[0], results)
    path = one(results.glob(f"runs/*/0/{name}"))
    damage(path, how)
    try:
        found = made(results, METHODS[0])
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        assert "remove this one to make the run again" in str(error)
        path.unlink()
        found = made(results, METHODS[0])
    assert found == whole[1]


@pytest.mark.parametrize("how", DAMAGES)
def test_the_checkpoint_of_an_interrupted_training(whole, halted, results, how, capsys):
    shutil.copytree(halted, results)
    path = one(results.glob("parents/*/0/last.ckpt"))
    damage(path, how)
    assert made(results, METHODS[0]) == whole[1]
    assert f"{path}" in (said := capsys.readouterr().out) and "training starts anew" in said


def test_what_a_sweep_remembers(reference, tmp_path):
    for number, how in enumerate(DAMAGES):
        results = tmp_path / str(number) / "results"
        shutil.copytree(reference, results)
        for path in results.glob("sweeps/settings/*.json"):
            damage(path, how)
        assert call(results)[0] == 0
        assert records(results) == records(reference)
