"""The folder of runs, `<results>/runs/<hash>/<seed>/`, and of trainings: its names, its locks and its records.

The hash says which experiment a run is (`settings.identity`); the seed is the folder level below it, so all seeds of
one experiment stand together and the same experiment finds its old results wherever it is started.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from oaq_repro.errors import InputError
from oaq_repro.files import remove_temporary, write_atomic
from oaq_repro.results.record import RECORD_NAME, Record, load_record

LOCK_NAME, WEIGHTS = ".lock", "weights.safetensors"
LONG_S = 30 * 24 * 3600.0
"""How long a process waits for another that trains what both need."""
SHORT_S = 1.0
"""How long it waits without saying so."""


def short_hash(text: str) -> str:
    """16 hexadecimal digits, enough for the name of a file or folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_folder(results: Path | str, hash: str, seed: int) -> Path:
    """Folder of one run below the results folder (it need not exist)."""
    return Path(results) / "runs" / hash / str(seed)


def training_folder(results: Path | str, kind: str, name: str, seed: int) -> Path:
    """Folder of a training that runs share (`parents`, `prepared`, `fine_tuned`), with its WEIGHTS.

    name: the hash of what the training depends on (`settings.identity`).
    """
    return Path(results) / kind / name / str(seed)


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


EARLY = "fingerprints"
"""The folder by which a results folder of version 1 is known: its runs kept the fingerprints of their data there."""


def say_early(results: Path | str) -> None:
    """Say that runs of an early version are not found by today's hashes, where there are some."""
    if (Path(results) / EARLY).is_dir():
        remedy = f"python scripts/rekey.py --results {results}"
        print(f"{results}: has runs of an early version, which are not found; bring them up to date: {remedy}")


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
    """Load a record and check that it lies in its own folder: a copied record would count twice.

    InputError also for one of an early version, whose settings cannot be compared with today's.
    """
    record = load_record(path)
    if record.science is None:
        results = path.parents[3]
        raise InputError(
            f"{path}: is of an early version; bring all records there up to date: "
            f"python scripts/rekey.py --results {results}"
        )
    found = (path.parent.parent.name, path.parent.name)
    expected = (record.hash, str(record.seed))
    if found != expected:
        raise InputError(
            f"{path}: fields hash and seed are {'/'.join(expected)}, expected {'/'.join(found)}, the name of the folder"
        )
    return record
