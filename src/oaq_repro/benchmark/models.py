"""Whole networks at batch 1: the engine's modes beside other runtimes, all verified first and timed in turn."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from oaq_repro.benchmark.agreement import compare
from oaq_repro.benchmark.case import Case
from oaq_repro.benchmark.machine import Isa
from oaq_repro.benchmark.peers import Peer, attempt
from oaq_repro.benchmark.timing import Row, Variant, alternate, rows, wall
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import Mode

ENGINE_VARIANTS: dict[str, tuple[Mode, Literal["oaq", "fixed16"]]] = {
    "fast": ("fast", "oaq"),
    "fast fixed16": ("fast", "fixed16"),
    "certified": ("certified", "oaq"),
    "certified fixed16": ("certified", "fixed16"),
    "acc32": ("acc32", "oaq"),
    "exact": ("exact", "oaq"),
}
"""The engine's mode, and the ranges of the graph that it runs."""


def measure_models(
    networks: Sequence[str],
    threads: Sequence[int],
    rounds: int,
    folder: Path,
    isa: Isa,
    clock_hz: float,
    peers: Sequence[Peer],
    progress: Callable[[], Any] = lambda: None,
) -> Iterator[list[Row]]:
    """The rows of one network and number of threads after the other; `progress` is called once per round."""
    for name in networks:
        case = Case(name, folder)
        for count in threads:
            yield _measure(case, count, rounds, isa, clock_hz, peers, progress)


def _measure(
    case: Case,
    threads: int,
    rounds: int,
    isa: Isa,
    clock_hz: float,
    peers: Sequence[Peer],
    progress: Callable[[], Any],
) -> list[Row]:
    variants: list[Variant] = []
    notes: dict[str, str] = {}
    for name, (mode, ranges) in ENGINE_VARIANTS.items():
        engine = Engine(case.oaq if ranges == "oaq" else case.fixed16, case.input_shape, threads, mode)
        found = compare(engine.run(case.image), case.expected(ranges))
        if found.equal:
            notes[name] = "equal to the expected"
            variants.append(Variant(name, wall(partial(engine.run, case.image))))
        else:
            notes[name] = f"not timed: differs from the expected by up to {found.difference:.1%}"
    for peer in peers:
        runner, notes[peer.name] = attempt(peer, case, threads, isa)
        if runner is not None:
            variants.append(Variant(peer.name, wall(runner.run)))
    timed = {
        row.variant: row
        for row in rows(
            case.name,
            threads,
            alternate(variants, rounds, progress=progress),
            case.macs,
            clock_hz,
            notes,
        )
    }
    return [timed.get(name, Row(case.name, threads, name, note=note)) for name, note in notes.items()]
