"""What a sweep does beyond its runs: it goes on after a failure and says at the end what failed, with exit status 1.

The runs of a sweep may be made by other processes or machines (joblib, submitit), so a run that did not finish leaves
a note in the sweep's folder, `<results>/sweeps/<time>/notes/<number>.json`; the callback `Summary` reads them at the
end.
"""

import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.results.record import RECORD_NAME, load_record
from oaq_repro.results.store import LONG_S, BusyError, lock_run, run_folder

NOTES = "notes"
unwritten: list[str] = []
"""Failures of this process of which the disk refused the notes."""


def in_sweep() -> bool:
    """Whether this process makes one of the runs of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def remember(settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run of this sweep, so that the sweep is known next time."""
    from oaq_repro.sweeps.finished import remember_settings

    remember_settings(settings, HydraConfig.get().overrides.task)


def note(error: Exception) -> None:
    """Leave word of a run of this sweep that did not finish, for the end of the sweep."""
    hydra = HydraConfig.get()
    run = " ".join(hydra.overrides.task)
    if isinstance(error, BusyError):
        print(f"{error.folder}: left to the process that works on it")
    elif isinstance(error, InputError | OSError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    content = {
        "run": run,
        "error": str(error) or type(error).__name__,
        "busy": str(error.folder) if isinstance(error, BusyError) else None,
    }
    try:
        write_atomic(Path(hydra.sweep.dir) / NOTES / f"{hydra.job.num}.json", json.dumps(content, indent=1) + "\n")
    except InputError as refused:
        print(f"error: {refused}", file=sys.stderr)
        unwritten.append(f"#{hydra.job.num} {run}: {content['error']}")


def failures(sweep: Path) -> list[str]:
    """One line per failed run of a sweep; waits for runs that other processes were at."""
    lines = list(unwritten)
    for path in sorted((sweep / NOTES).glob("[0-9]*.json"), key=lambda p: int(p.stem)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            run, error, busy = content["run"], content["error"], content["busy"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as unreadable:
            run, error, busy = path, f"cannot be read ({unreadable!r})", None
        if busy is not None:
            error = _after_others(Path(busy))
        if error is not None:
            lines.append(f"#{path.stem} {run}: {error}")
    return lines


def _after_others(folder: Path) -> str | None:
    """What became of a run that another process was at: None when it has finished, else what is wrong."""
    try:
        with lock_run(folder, LONG_S):
            record = load_record(folder / RECORD_NAME)
    except InputError as error:
        return str(error)
    if record.status != "finished":
        return f"{folder}: left {record.status} by another process; start the sweep again"
    print(f"{folder}: finished by another process")
    return None


class Summary(Callback):
    """Ends a sweep at once where all is finished, else by listing what failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit status 0 when there is nothing to do, 1 when there is no place to do it."""
        from oaq_repro.sweeps.finished import finished_sweep

        try:
            finished = finished_sweep(config)
        except InputError:  # a damaged record: its run will say so
            finished = None
        if not finished:
            try:  # Hydra writes this file next and would show a traceback where it cannot
                write_atomic(Path(config.hydra.sweep.dir) / "multirun.yaml", OmegaConf.to_yaml(config))
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                sys.exit(1)
        else:
            for record in finished:
                print(f"{run_folder(config.results, record.hash, record.seed)}: finished earlier")
            print(f"All {len(finished)} runs of this sweep were finished earlier")
            sys.exit(0)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Exit status 1 when a run failed."""
        sweep = Path(config.hydra.sweep.dir)
        failed = failures(sweep)
        if failed:
            print(f"{len(failed)} runs of this sweep failed (notes in {sweep / NOTES}):", file=sys.stderr)
            print("\n".join(f"  {line}" for line in failed), file=sys.stderr)
            sys.exit(1)
