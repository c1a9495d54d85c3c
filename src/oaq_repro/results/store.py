"""The folder of runs: `<results>/runs/<hash>/<seed>/`, its names, its locks and its records.

The hash says which experiment a run is; the seed is the folder level below it, so all seeds of one
experiment stand together and the same experiment finds its old results wherever it is started.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from oaq_repro.errors import InputError
from oaq_repro.files import remove_temporary, write_atomic
from oaq_repro.results.record import RECORD_NAME, Record, load_record

LOCK_NAME = ".lock"
LONG_S = 30 * 24 * 3600.0
"""How long a process waits for another that trains what both need."""
SHORT_S = 1.0
"""How long it waits without saying so."""

# Top-level keys that say where, how loudly and for which seed a run is made, not what it measures. `choices` are
# the names of the config files, whose content is hashed.
IGNORED_TOP_LEVEL = frozenset({"seed", "threads", "latency", "logger", "results", "hydra", "choices"})

# Keys that do not change the science, at any depth below their section.
IGNORED_IN_SECTION: dict[str, frozenset[str]] = {
    "data": frozenset({"root", "num_workers", "seed"}),
    "trainer": frozenset(
        {"accelerator", "devices", "num_nodes", "strategy", "plugins", "benchmark", "default_root_dir"}
        | {"logger", "callbacks", "profiler", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"}
        | {"log_every_n_steps", "num_sanity_val_steps"}
    ),
}

# A checkpoint is known by its content: the same file elsewhere is the same experiment, another file is not.
CONTENT_KEYS = frozenset({"checkpoint", "backbone_checkpoint"})


def run_hash(config: Mapping[str, Any], fingerprint: str) -> str:
    """Name of an experiment: 16 hex digits over what changes the science.

    `config` is the resolved configuration (plain containers); `fingerprint` says what the data are
    (`DataModule.fingerprint`). Paths, caches, workers, devices, loggers and the seed are left out; a
    checkpoint counts by its content; 1 and 1.0 are the same. Raises InputError for values that JSON
    cannot hold and for a checkpoint that cannot be read. Our choice of keys: `IGNORED_*`.
    """
    science = {
        str(key): _canonical(value, IGNORED_IN_SECTION.get(str(key), frozenset()), str(key))
        for key, value in config.items()
        if key not in IGNORED_TOP_LEVEL
    }
    text = json.dumps({"config": science, "data": fingerprint}, sort_keys=True, separators=(",", ":"))
    return short_hash(text)


def short_hash(text: str) -> str:
    """16 hexadecimal digits, enough for the name of a file or folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path | str) -> str:
    """Sha256 (hex) of a file's content; InputError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def run_folder(results: Path | str, hash: str, seed: int) -> Path:
    """Folder of one run below the results folder (it need not exist)."""
    return Path(results) / "runs" / hash / str(seed)


def find_record(results: Path | str, hash: str, seed: int) -> Record | None:
    """Record of one run, or None when there is none yet; InputError when there is one that cannot be read."""
    path = run_folder(results, hash, seed) / RECORD_NAME
    if not path.exists():
        return None
    try:
        return load_in_place(path)
    except InputError as error:
        raise InputError(f"{error}; put the right file there, or remove this one to make the run again") from error


def is_worker() -> bool:
    """Whether this process was started beside a first one that trains the same run (Lightning's ddp, Slurm, torchrun).

    A worker trains along; it takes no locks and writes nothing.
    """
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


class BusyError(InputError):
    """Another process works on the run in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: another process works on this run; wait for it or choose another seed")
        self.folder = folder


@contextmanager
def lock_run(folder: Path | str, timeout: float = 0.0) -> Iterator[Path]:
    """Hold a folder (created if absent) for this process; the system frees it when the process ends.

    Files that a killed process did not finish are removed. `timeout` is in seconds.
    Raises BusyError when another process holds the folder, InputError when it cannot be made.
    """
    folder = Path(folder)
    if is_worker():
        yield folder
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        try:
            lock.acquire(timeout=min(timeout, SHORT_S))
        except Timeout:
            if timeout:
                print(f"{folder}: another process works there; waiting for it")
            lock.acquire(timeout=timeout)
        remove_temporary(folder)
    except Timeout as error:
        raise BusyError(folder) from error
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be locked ({error.strerror or error}), expected a writable folder"
        ) from error
    try:
        yield folder
    finally:
        lock.release()


def write_shared(path: Path, content: str) -> None:
    """Write a small file that many processes share, unless one has already; InputError when the disk refuses."""
    if not path.exists() or path.read_bytes() != content.encode():
        with lock_run(path.parent, LONG_S):
            write_atomic(path, content)


@dataclass(frozen=True)
class Listing:
    """All records of a results folder, ordered by hash and seed, and one message per unreadable record."""

    records: list[Record]
    problems: list[str]


def list_records(results: Path | str) -> Listing:
    """Read every record below `<results>/runs`; InputError when the results folder itself does not exist."""
    results = Path(results)
    if not results.is_dir():
        raise InputError(f"{results}: no such folder, expected a results folder with runs/<hash>/<seed>/{RECORD_NAME}")
    records: list[Record] = []
    problems: list[str] = []
    for path in sorted(results.glob(f"runs/*/*/{RECORD_NAME}")):
        try:
            records.append(load_in_place(path))
        except InputError as error:
            problems.append(str(error))
    return Listing(sorted(records, key=lambda record: (record.hash, record.seed)), problems)


def load_in_place(path: Path) -> Record:
    """Load a record and check that it lies in its own folder: a copied record would count twice."""
    record = load_record(path)
    found = (path.parent.parent.name, path.parent.name)
    expected = (record.hash, str(record.seed))
    if found != expected:
        raise InputError(
            f"{path}: fields hash and seed are {'/'.join(expected)}, expected {'/'.join(found)}, the name of the folder"
        )
    return record


def _canonical(value: Any, ignored: frozenset[str], where: str) -> Any:
    """Plain JSON containers without the ignored keys, so that equal science gives equal text."""
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in value.items() if key not in ignored}
        return {key: _content(item, ignored, f"{where}.{key}", key) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item, ignored, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{where}: found {value!r}, expected a finite number")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, str | bool | int):
        return value
    raise InputError(f"{where}: found a value of type {type(value).__name__}, expected text, number, list or mapping")


def _content(value: Any, ignored: frozenset[str], where: str, key: str) -> Any:
    if key in CONTENT_KEYS and isinstance(value, str):
        try:
            return {"sha256": file_hash(value)}
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return _canonical(value, ignored, where)
