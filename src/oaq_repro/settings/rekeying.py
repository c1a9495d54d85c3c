"""Rewriting the records of earlier versions in a results folder (`scripts/rekey.py`)."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from oaq_repro.errors import InputError
from oaq_repro.files import file_hash
from oaq_repro.results.record import RECORD_NAME, Record, load_record, save_record
from oaq_repro.results.store import EARLY, WEIGHTS, lock_run, run_folder, training_folder
from oaq_repro.settings.earlier import current
from oaq_repro.settings.identity import hash_of, parent_hash, science
from oaq_repro.settings.schema import read


@dataclass
class Rekeyed:
    """Runs that were rewritten (one line each), how many were up to date, and runs that were left, with the reason."""

    moved: list[str] = field(default_factory=list)
    current: int = 0
    left: list[str] = field(default_factory=list)


def rekey(results: Path) -> Rekeyed:
    """Bring all records below `<results>/runs` up to date, each to the folder of its hash, with its float parent."""
    done = Rekeyed()
    parents = _parents(results)
    for path in sorted(results.glob(f"runs/*/*/{RECORD_NAME}")):
        old = path.parent
        try:
            record = load_record(path)
            new = updated(record)
            folder = run_folder(results, new.hash, new.seed)
            if new == record and folder == old:
                done.current += 1
                continue
            if folder != old and (folder / RECORD_NAME).exists():
                raise InputError(f"{folder} is there already, of the same settings; keep one of both")
            with lock_run(old):
                _move_parent(new, results, parents)
                save_record(new, path)  # before the folder moves: a second start finds it and goes on
                _move(old, folder)
        except InputError as error:
            done.left.append(f"{old}: {error}")
        else:
            done.moved.append(f"{old} -> {folder}")
    shutil.rmtree(results / EARLY, ignore_errors=True)
    return done


def updated(record: Record) -> Record:
    """The record with today's settings, science and hash; InputError where today's settings cannot say it."""
    config = current(record.config)
    found = science(read(config))
    name = hash_of(found, record.provenance.dataset_fingerprint)
    return record.model_copy(update={"config": config, "science": found, "hash": name})


def _parents(results: Path) -> dict[str, Path]:
    """Folders of float parents by the hash of their weights, which is what records know of them."""
    return {file_hash(path): path.parent for path in sorted(results.glob(f"parents/*/*/{WEIGHTS}"))}


def _move_parent(record: Record, results: Path, parents: dict[str, Path]) -> None:
    folder = parents.pop(record.provenance.parent_hash or "", None)
    if folder is not None:
        name = parent_hash(read(record.config), record.provenance.dataset_fingerprint)
        _move(folder, training_folder(results, "parents", name, record.seed))


def _move(old: Path, new: Path) -> None:
    if old == new or new.exists():
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(old, new)
    if not any(old.parent.iterdir()):
        old.parent.rmdir()
