"""Sweeps as a user meets them: what fails, what is resumed, and that every launcher makes the same records."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from composing import TINY, changed

from oaq_repro.results.record import load_record
from oaq_repro.results.store import lock_run
from oaq_repro.sweeps.callback import failures

SWEEP = ["-m", *TINY, "latency=false", "method=int8,int8_settle", "accumulator.bits=14,32"]


def call(results, *arguments):
    command = [sys.executable, "-m", "oaq_repro", *arguments, f"results={results}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=results, timeout=500)


def records(results):
    found = [load_record(path) for path in sorted(results.glob("runs/*/0/record.json"))]
    return {record.hash: record.model_dump(exclude={"provenance"}) for record in found}


def write_note(sweep, number, busy=None):
    (sweep / "notes").mkdir(parents=True, exist_ok=True)
    content = {"run": f"seed={number}", "error": "no disk", "busy": busy and str(busy)}
    (sweep / "notes" / f"{number}.json").write_text(json.dumps(content))


def test_failures_are_listed_in_order(tmp_path):
    for number in (10, 9):
        write_note(tmp_path, number)
    assert failures(tmp_path) == ["#9 seed=9: no disk", "#10 seed=10: no disk"]
    assert failures(tmp_path / "another") == []


def test_a_note_that_cannot_be_read_is_a_failure(tmp_path):
    write_note(tmp_path, 3)
    (tmp_path / "notes" / "3.json").write_text("{")
    (line,) = failures(tmp_path)
    assert line.startswith("#3 ") and "cannot be read" in line


@pytest.mark.slow
def test_a_signal_stops_the_whole_sweep(tmp_path):
    long = changed(TINY, "schedule.float.epochs=10000")
    command = ["-m", "oaq_repro", "-m", *long, "seed=0,1,2", f"results={tmp_path}"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    while not list(tmp_path.glob("parents/*/0/float/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in error
    assert [r["status"] for r in records(tmp_path).values()] == ["interrupted"]


def test_a_run_that_another_process_dropped_is_a_failure(tmp_path):
    folder = tmp_path / "runs" / ("0" * 16) / "0"
    write_note(tmp_path, 0, busy=folder)
    with lock_run(folder):
        pass
    (line,) = failures(tmp_path)
    assert line.startswith("#0 seed=0: ") and "record.json: cannot be read" in line


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failure_and_is_resumed(tmp_path):
    done = call(tmp_path, "-m", *TINY, "latency=false", "method=int8", "accumulator.bits=16,99,32")
    assert done.returncode == 1
    summary = done.stderr[done.stderr.index("1 runs of this sweep failed") :]
    assert "#1 " in summary and "accumulator.bits: found 99" in summary and "Traceback" not in done.stderr
    found = records(tmp_path)
    assert sorted(r["config"]["accumulator"]["bits"] for r in found.values() if r["status"] == "finished") == [16, 32]
    assert len(list(tmp_path.glob("fine_tuned/*/0/metrics.json"))) == 1

    again = call(tmp_path, "-m", *TINY, "latency=false", "method=int8", "accumulator.bits=16,32")
    assert again.returncode == 0 and "All 2 runs of this sweep were finished earlier" in again.stdout
    assert records(tmp_path) == found


@pytest.mark.slow
def test_two_sweeps_at_once_and_other_launchers_make_the_same_records(tmp_path):
    folders = [tmp_path / name for name in ("basic", "joblib", "submitit")]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: call(folders[0], *SWEEP), range(2)))
    assert [done.returncode for done in both] == [0, 0], both[0].stderr + both[1].stderr
    expected = records(folders[0])
    assert [r["status"] for r in expected.values()] == ["finished"] * 4
    trained = [path for path in folders[0].rglob("metrics.csv") if "runs" not in path.parts]
    assert len(trained) == 2  # one float parent, one fine-tuning

    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra 'joblib' is not installed")
    done = call(folders[1], *SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 0, done.stderr
    assert records(folders[1]) == with_results(expected, folders[1])

    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra 'submitit' is not installed")
    done = call(folders[2], *SWEEP, "hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1")
    assert done.returncode == 0, done.stderr
    assert records(folders[2]) == with_results(expected, folders[2])


def with_results(expected, folder):
    """The same records, made in another results folder."""
    return {name: {**r, "config": {**r["config"], "results": str(folder)}} for name, r in expected.items()}
