"""`python -m oaq_repro`: one run, or a sweep with `-m`. Heavy packages are imported only when a run starts."""

import os
import sys

from oaq_repro import signals
from oaq_repro.extras import require

# before the imports below and theirs, which take a while; of the processes of a training the first one speaks
signals.install(quiet=os.environ.get("LOCAL_RANK", "0") != "0")

require("train")

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from oaq_repro.settings.composing import config_folder, groups_without_files  # noqa: E402

failures: list[str] = []


@hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")
def main(config: DictConfig) -> float | None:
    """Run one experiment; returns its headline metric (for Hydra's sweepers), None when it failed.

    A sweep goes on after any failure; a single run shows the traceback of what is no bad input.
    """
    from oaq_repro.errors import InputError
    from oaq_repro.sweeps import callback

    try:
        return _run_or_show(config)
    except Exception as error:
        stopped = signals.interruption(error)
        if stopped is not None:
            raise stopped from None
        if callback.in_sweep():
            callback.note(error)
            return None
        if not isinstance(error, InputError | OSError):
            raise
        failures.append(str(error))
        print(f"error: {error}", file=sys.stderr)
        return None


def _run_or_show(config: DictConfig) -> float | None:
    from oaq_repro.results.finished import finished_record
    from oaq_repro.results.store import run_folder
    from oaq_repro.settings.composing import resolve
    from oaq_repro.sweeps import callback

    settings, sweeping = resolve(config), callback.in_sweep()
    earlier = finished_record(settings)
    if earlier is None:
        from oaq_repro.experiment import run

        record = run(settings, wait=not sweeping)
        if record is None:
            sys.exit(0)  # a worker, here and in a sweep: the first process starts others for its next run
    else:
        record = earlier
    folder = run_folder(settings["results"], record.hash, record.seed)
    if earlier is not None:
        print(f"{folder}: finished earlier; nothing is trained again")
    if sweeping:
        callback.remember(settings)
    if earlier is None or not sweeping:
        from oaq_repro.results.terminal import print_record

        print_record(record)
        print(f"Record, checkpoint, integer graph and figures: {folder}")
    return record.headline


def entry_point() -> None:
    """Console entry: exit status 1 when the run failed; `callback.Summary` sees to sweeps."""
    # Waiting OpenMP threads sleep instead of spinning, which on a busy machine takes the cores from those that work.
    # Read as torch is loaded, and inherited by the processes of a sweep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    failures.extend(groups_without_files(sys.argv[1:]))
    if failures:
        print("\n".join(f"error: {message}" for message in failures), file=sys.stderr)
    else:
        main()
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    entry_point()
