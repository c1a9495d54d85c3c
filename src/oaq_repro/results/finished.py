"""Is a run finished already? Answered without torch and without reading its data, so that a sweep resumes quickly.

A run's hash needs the fingerprint of its data and the code's defaults. What they gave is remembered in
`<results>/known/`, under a name that covers the settings, the state of the data's files and of the code.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oaq_repro.results.record import Record
from oaq_repro.results.store import find_record, short_hash, write_shared

HASH_DIGITS = 16
UNSEEN = ("results", "logger", "choices", "threads", "latency")
"""What no result depends on; more is known where the schema is read."""
CODE = Path(__file__).resolve().parents[1]
LEVELS = 3
"""Folders of a data set that are looked into: root, and two below (class folders, VOC2007/Annotations)."""
ANNOTATIONS = (".json", ".xml", ".txt", ".csv")


def finished_record(settings: Mapping[str, Any]) -> Record | None:
    """The record of a run that has finished; None when it has not, or when its data have to be read to know."""
    if not isinstance(settings.get("results"), str) or not isinstance(settings.get("data"), Mapping):
        return None  # `schema.check` will say what is wrong
    try:
        name = _place(settings).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    if len(name) != HASH_DIGITS:
        return None
    record = find_record(settings["results"], name, settings["seed"])
    return record if record is not None and record.status == "finished" else None


def remember(settings: Mapping[str, Any], name: str) -> None:
    """Keep the hash of a run, which was computed from the data themselves."""
    write_shared(_place(settings), name)


def _place(settings: Mapping[str, Any]) -> Path:
    """The file of a hash: another one as soon as the settings, the data's files or the code change."""
    kept = {key: value for key, value in settings.items() if key not in UNSEEN}
    kept["data"] = {key: value for key, value in settings["data"].items() if key != "num_workers"}
    model = settings["model"] if isinstance(settings.get("model"), Mapping) else {}
    files = (settings["data"].get("root"), model.get("checkpoint"), model.get("backbone_checkpoint"), CODE)
    stamps = [list(_stamp(Path(path).expanduser())) for path in files if isinstance(path, str | Path)]
    text = json.dumps([kept, stamps], sort_keys=True, default=str)
    return Path(settings["results"]) / "known" / f"{short_hash(text)}.txt"


def _stamp(path: Path) -> Iterator[tuple[str, int, int]]:
    """Path, time of change and size of the root and, below it, of folders and of annotation files.

    Images are not looked at one by one: one that is added, removed or renamed changes its folder.
    """
    if path.exists():
        yield _state(path.resolve())
        if path.is_dir():
            yield from _below(path.resolve(), LEVELS)


def _below(folder: Path, levels: int) -> Iterator[tuple[str, int, int]]:
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        is_folder = entry.is_dir() and entry.name != "__pycache__"
        if is_folder or entry.name.endswith((*ANNOTATIONS, ".py")):
            yield _state(Path(entry.path))
        if is_folder and levels > 1:
            yield from _below(Path(entry.path), levels - 1)


def _state(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_mtime_ns, found.st_size
