"""Many networks, one after the other; each one's record is written when it is known."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from oaq_repro.benchmark.coverage import measuring
from oaq_repro.benchmark.coverage.named import NAMED_NETWORKS
from oaq_repro.benchmark.coverage.records import load, save
from oaq_repro.benchmark.machine import Isa
from oaq_repro.errors import InputError


def check_all(names: Sequence[str] | None, records: Path, graphs: Path, again: bool) -> None:
    """Those without a record, or all of them `again`. InputError for an unknown name."""
    torch.set_num_threads(1)
    for name, bar in _each([name for name in _known(names) if again or load(records, name) is None], "check"):
        record = measuring.check(name, graphs)
        save(record, records)
        differs = [way for way, equal in record.equal.items() if not equal]
        outcome = record.error or (f"differs: {', '.join(differs)}" if differs else "equal in all ways")
        bar.write(f"{name}: {outcome}")


def time_all(names: Sequence[str] | None, records: Path, graphs: Path, again: bool, rounds: int, isa: Isa) -> None:
    """Those that lower and have no times, or all of them `again`; graphs that are not at hand are made first."""
    torch.set_num_threads(1)
    for name, bar in _each(list(_known(names)), "time"):
        record = load(records, name)
        if record is None:
            raise InputError(f"{records}: found no record of {name}, expected that it has been checked")
        if record.error is not None or (record.timing is not None and not again):
            continue
        if not (graphs / f"{name}.npz").exists():
            measuring.check(name, graphs)
        record.timing = measuring.time(record, graphs, rounds, isa)
        save(record, records)
        bar.write(f"{name}: " + ", ".join(f"{way} {ms:.2f} ms" for way, ms in record.timing.milliseconds.items()))


def _known(names: Sequence[str] | None) -> Sequence[str]:
    for name in names or ():
        if name not in NAMED_NETWORKS:
            raise InputError(f"--networks: found {name!r}, expected some of {', '.join(NAMED_NETWORKS)}")
    return names or list(NAMED_NETWORKS)


def _each(names: Sequence[str], what: str) -> Iterator[tuple[str, tqdm]]:
    with tqdm(names, desc=what, unit="network") as bar:
        for name in bar:
            bar.set_postfix_str(name)
            yield name, bar
