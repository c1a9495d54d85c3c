"""Are all runs of a sweep finished? Answered without composing their configurations, which takes Hydra longer.

A run's resolved settings follow from its overrides, the files of `conf/` and the environment. So each run of a sweep
leaves them in `<results>/sweeps/settings/`, under a name that covers those, for the next time the sweep is started.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from oaq_repro.files import json_checksum
from oaq_repro.results.finished import finished_record
from oaq_repro.results.record import Record
from oaq_repro.results.store import short_hash, write_shared
from oaq_repro.settings.composing import config_folder


def finished_sweep(config: DictConfig) -> list[Record] | None:
    """The records of a sweep (`config` with its `hydra` node) whose runs have all finished, else None."""
    sweeper = config.hydra.sweeper
    if sweeper._target_.rpartition(".")[2] != BasicSweeper.__name__:
        return None
    swept = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*swept, *config.hydra.overrides.task])
    records = []
    source = _source()
    for job in BasicSweeper.split_arguments(overrides, None)[0]:
        try:
            content = json.loads(_place(config.results, job, source).read_text(encoding="utf-8"))
            sound = content["checksum"] == json_checksum(content)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        record = finished_record(content["settings"]) if sound else None
        if record is None:
            return None
        records.append(record)
    return records


def remember_settings(settings: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Keep the resolved settings of a run of a sweep."""
    content = {"settings": settings, "checksum": json_checksum({"settings": settings})}
    write_shared(_place(settings["results"], overrides, _source()), json.dumps(content))


def _source() -> list[Any]:
    """What overrides act on: the files of `conf/`, the part of the environment that is ours."""
    folder = config_folder()
    files = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*.yaml"))]
    return [files, sorted((key, value) for key, value in os.environ.items() if key.startswith("OAQ_"))]


def _place(results: str | Path, overrides: Iterable[str], source: list[Any]) -> Path:
    text = json.dumps([list(overrides), source])
    return Path(results) / "sweeps" / "settings" / f"{short_hash(text)}.json"
