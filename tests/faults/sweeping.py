"""A small sweep in a process of its own, and what must be so after any fault: the same records, nothing left over."""

import os
import re
import subprocess
import sys
from pathlib import Path

from oaq_repro.results.record import Record, load_record

# Three runs that share a float parent; two of them share a fine-tuning. Every training leaves a checkpoint on its way.
RUNS = [
    "data=digits_sweep", "latency=false", "threads=1", "data.subset=320", "data.batch_size=32", "data.val_subset=32",
    "schedule.float.epochs=12", "schedule.finetune.epochs=11", "schedule.float.validations=1",
    "schedule.finetune.validations=1", "quantization.calibration_batches=2", "trainer.enable_progress_bar=false",
    "accumulator.bits=14",
]  # fmt: skip
METHODS = ["int8", "int8_settle", "oaq"]
SWEEP = ["-m", *RUNS, f"method={','.join(METHODS)}"]
SLURM = {
    "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "sweep", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}  # fmt: skip
TIMEOUT_S = 600

# All that a results folder may hold when nobody is at work.
FILES = [
    re.compile(pattern)
    for pattern in (
        r"(known|sweeps/settings|(parents|fine_tuned|runs)/\w+/0)/\.lock",
        r"known/\w+\.txt",
        r"sweeps/settings/\w+\.json",
        r"sweeps/[\d_-]+/(multirun\.yaml|notes/\d+\.json)",
        r"(parents|fine_tuned)/\w+/0/(weights\.safetensors|metrics\.json|(float|finetune)(-\d+)?/metrics\.csv)",
        r"runs/\w+/0/(record\.json|graph\.npz|quantized\.ckpt|alpha\.png|overflow\.png|finetune(-\d+)?/metrics\.csv)",
    )
]

# Runs the suite and sends it a signal as something happens: $FAULT is a signal, an audit event of Python, text in the
# event's first two arguments. https://docs.python.org/3/library/audit_events.html
DYING = """
import os, runpy, signal, sys
number, wanted, text = os.environ["FAULT"].split(":")
armed = True
def hook(event, arguments):
    global armed
    if armed and event == wanted and text in " ".join(str(a) for a in arguments[:2]):
        armed = False
        os.kill(os.getpid(), signal.Signals[number])
sys.addaudithook(hook)
sys.argv[0] = "oaq_repro"
runpy.run_module("oaq_repro", run_name="__main__", alter_sys=True)
"""


def start(results: Path, *arguments: str, fault: str | None = None, cwd: Path | None = None, **variables: str):
    """The suite as a child process that works in `cwd`, an empty folder beside the results."""
    cwd = cwd or results.parent / "working"
    cwd.mkdir(parents=True, exist_ok=True)
    program = ["-m", "oaq_repro"] if fault is None else ["-c", DYING]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables, **({"FAULT": fault} if fault else {})}
    return subprocess.Popen(
        [sys.executable, *program, *(arguments or SWEEP), f"results={results}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd, env=environment, start_new_session=True,
    )  # fmt: skip


def finish(process) -> tuple[int, str]:
    """Exit status and stderr of a process; nothing that looks like a traceback is in it."""
    _, error = process.communicate(timeout=TIMEOUT_S)
    assert "Traceback" not in error and "Exception ignored" not in error, error
    return process.returncode, error


def call(results: Path, *arguments: str, **fields) -> tuple[int, str]:
    """Start and wait."""
    return finish(start(results, *arguments, **fields))


def comparable(record: Record) -> dict:
    """A record without where and when it was made."""
    content = record.model_dump()
    for field in ("wall_time_s", "started", "git_revision", "git_dirty", "git_reason"):
        del content["provenance"][field]
    for field in ("results", "choices"):
        content["config"].pop(field, None)
    return content


def records(results: Path) -> dict[str, dict]:
    """All records below a results folder, by hash."""
    found = [load_record(path) for path in sorted(results.glob("runs/*/0/record.json"))]
    return {record.hash: comparable(record) for record in found}


def contents(results: Path) -> dict[str, bytes]:
    """Files that must be the same to the byte, by their place."""
    patterns = ("parents/*/0/weights.safetensors", "fine_tuned/*/0/weights.safetensors", "runs/*/0/graph.npz")
    return {str(p.relative_to(results)): p.read_bytes() for pattern in patterns for p in results.glob(pattern)}


def leftovers(results: Path) -> list[str]:
    """Files that should not be there: below the results, and any in the working folder."""
    names = [path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()]
    working = results.parent / "working"
    strays = [str(path) for path in working.rglob("*")] if working.exists() else []
    return strays + [name for name in names if not any(pattern.fullmatch(name) for pattern in FILES)]


def assert_undisturbed(results: Path, reference: Path) -> None:
    """The sweep is finished in `results`, as in `reference`."""
    assert records(results) == records(reference)
    assert contents(results) == contents(reference)
    assert leftovers(results) == []
    for folder in results.glob("runs/*/0"):
        assert {"alpha.png", "overflow.png", "graph.npz", "quantized.ckpt"} <= {path.name for path in folder.iterdir()}
