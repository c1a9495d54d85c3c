"""Paired timing: every round times every variant once, so that a drifting machine slows all of them alike. Our choice.

Quoted are medians, the tenth percentile (nearly undisturbed), and the median over rounds of the ratios within a round.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

BASE = "fast"  # what ratios refer to; longer than the base is above 1
PAUSE = 0.002  # seconds, in which the threads of the variant before stop to spin


@dataclass(frozen=True)
class Variant:
    """measure: one timed run, seconds."""

    name: str
    measure: Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One line of a report. name: network or shape. None where nothing was timed; then `note` says why."""

    name: str
    threads: int
    variant: str
    median_ms: float | None = None
    p10_ms: float | None = None
    ratio_to_fast: float | None = None
    ratio_quartiles: tuple[float, float] | None = None
    mac_per_cycle: float | None = None
    rounds: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def wall(run: Callable[[], Any]) -> Callable[[], float]:
    """Times a run on the wall clock, right after one that is not counted and fills the caches."""

    def measure() -> float:
        time.sleep(PAUSE)
        run()
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return measure


def alternate(
    variants: Sequence[Variant], rounds: int, warm_ups: int = 3, progress: Callable[[], Any] = lambda: None
) -> dict[str, list[float]]:
    """Seconds per variant, one value per round. The order rotates and turns round, so that none has a fixed place."""
    for variant in variants:
        for _ in range(warm_ups):
            variant.measure()
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for turn in range(rounds):
        start = turn % max(len(variants), 1)
        order = [*variants[start:], *variants[:start]]
        for variant in reversed(order) if turn % 2 else order:
            times[variant.name].append(variant.measure())
        progress()
    return times


def rows(
    name: str,
    threads: int,
    times: dict[str, list[float]],
    macs: int,
    clock_hz: float,
    notes: dict[str, str] | None = None,
    base: str = BASE,
) -> list[Row]:
    """One row per variant, in order. macs: products of one run, for those per cycle and core."""
    return [
        Row(
            name=name,
            threads=threads,
            variant=variant,
            median_ms=1e3 * float(np.median(seconds)),
            p10_ms=1e3 * float(np.quantile(seconds, 0.1)),
            ratio_to_fast=None if (ratios := _ratios(seconds, times.get(base))) is None else float(np.median(ratios)),
            ratio_quartiles=None if ratios is None else _quartiles(ratios),
            mac_per_cycle=macs / (float(np.median(seconds)) * clock_hz * threads),
            rounds=len(seconds),
            note=(notes or {}).get(variant, ""),
        )
        for variant, seconds in times.items()
    ]


def _ratios(seconds: list[float], base: list[float] | None) -> np.ndarray | None:
    """Of the same round."""
    return None if base is None else np.asarray(seconds) / np.asarray(base)


def _quartiles(ratios: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(ratios, (0.25, 0.75))
    return float(low), float(high)
