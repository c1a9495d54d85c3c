"""The suites' results as JSON and Markdown, written atomically."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oaq_repro.benchmark.kernels import ROUTES, kind_of
from oaq_repro.benchmark.models import ENGINE_VARIANTS
from oaq_repro.benchmark.peers import PEERS
from oaq_repro.benchmark.timing import BASE, Row
from oaq_repro.files import write_atomic

KINDS = {peer.name: peer.kind for peer in PEERS}
ISA_WORDS = {"avx2": "every runtime restricted to AVX2", "native": "every runtime as it likes"}
_AGAINST_FAST = [name for name in ENGINE_VARIANTS if name != BASE]
_AGAINST_PEERS = [name for name, (mode, _) in ENGINE_VARIANTS.items() if mode in ("fast", "certified")]
HEADS = ["variant", "median ms", "10 % ms", "time / fast (quartiles)", "MAC/cycle", "note"]


def write_json(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> Path:
    """{"machine": {...}, "rows": [...]}."""
    content = {"machine": machine, "rows": [row.to_dict() for row in rows]}
    return write_atomic(path, json.dumps(content, indent=2) + "\n")


def models_markdown(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """A summary, then a table per network and number of threads."""
    lines = ["# Networks, batch 1", "", *head(machine), ""]
    lines += [
        "Time / fast: median over rounds of the ratio within a round; above 1 is slower than mode `fast`. The engine",
        "runs the network with the ranges of overflow aware quantization, int8 peers with plain 8-bit ranges. fixed16:",
        "sums become codes in 16 bits (requantization=fixed16), else by float32 multipliers. MAC/cycle is per core, at",
        "the median.",
        "",
    ]
    groups = _groups(rows)
    heads = ["network", "threads", "fast ms", *(f"{name} / fast" for name in _AGAINST_FAST), "best int8 peer"]
    heads += [*(f"peer / {name}" for name in _AGAINST_PEERS), "best fp32 peer", "fp32 / fast"]
    lines += [_line(heads), _line(["---"] * len(heads))]
    lines += [_line(_summary(group)) for group in groups]
    for group in groups:
        first = group[0]
        lines += ["", f"## {first.name}, {_threads(first.threads)}", "", _line(HEADS), _line(_ALIGNED)]
        lines += [_line(_cells(row)) for row in group]
    return "\n".join(lines) + "\n"


def kernels_markdown(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """The best and the median of every route, then a line per shape."""
    lines = ["# Kernels", "", *head(machine), ""]
    lines += [
        "Multiply-accumulates (MAC) per cycle and core, padding counted, at the median time. `16 bit`: sums stay in",
        "16 bits. `fold n`: sums of n steps of four products (depthwise: n pairs) in 16 bits, then 32; `fold 1` is the",
        "usual way of int8 runtimes without dot-product instructions. `exact`: 16-bit operands, sums in 32 bits.",
    ]
    for threads in sorted({row.threads for row in rows}):
        here = [row for row in rows if row.threads == threads]
        lines += ["", f"## {_threads(threads).capitalize()}", ""]
        lines += [_line(["kind", *(f"{route}: best (median)" for route in ROUTES)]), _line(["---"] * (len(ROUTES) + 1))]
        for kind in sorted({kind_of(row.name) for row in here}):
            lines.append(_line([kind, *(_best([r for r in here if kind_of(r.name) == kind], x) for x in ROUTES)]))
        lines += ["", _line(["shape", *ROUTES, "fold 1 / 16 bit", "exact / 16 bit"])]
        lines += [_line(["---", *["---:"] * (len(ROUTES) + 2)])]
        for group in _groups(here):
            by_route = {row.variant: row for row in group}
            rates = [_number(by_route[x].mac_per_cycle if x in by_route else None, 1) for x in ROUTES]
            ratios = [_ratio(by_route.get(x)) for x in ("fold 1", "exact")]
            lines.append(_line([group[0].name, *rates, *ratios]))
    return "\n".join(lines) + "\n"


def best_peer(group: Sequence[Row], kind: str) -> Row | None:
    """The timed peer of that kind (`int8`, `fp32`) with the smallest ratio, or None."""
    found = [row for row in group if KINDS.get(row.variant) == kind and row.ratio_to_fast is not None]
    return min(found, key=lambda row: row.ratio_to_fast or 0.0, default=None)


def _summary(group: Sequence[Row]) -> list[str]:
    by_name = {row.variant: row for row in group}
    fast, int8, fp32 = by_name.get(BASE), best_peer(group, "int8"), best_peer(group, "fp32")
    ratios = {name: row.ratio_to_fast for name, row in by_name.items()}
    return [
        group[0].name,
        str(group[0].threads),
        _number(fast.median_ms if fast else None, 2),
        *(_number(ratios.get(name), 2) for name in _AGAINST_FAST),
        int8.variant if int8 else "-",
        *(_number(_quotient(int8.ratio_to_fast if int8 else None, ratios.get(name)), 2) for name in _AGAINST_PEERS),
        fp32.variant if fp32 else "-",
        _number(fp32.ratio_to_fast if fp32 else None, 2),
    ]


def _quotient(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None


def head(machine: dict[str, Any]) -> list[str]:
    """What was measured with, as lines of Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    load = ", ".join(f"{value:.1f}" for value in machine["load_average"])
    busy = machine["load_average"][0] > machine["cores"] / 2
    return [
        "Generated by `scripts/benchmark.py`; do not edit.",
        "",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['clock_hz'] / 1e9:.2f} GHz measured; "
        f"has {', '.join(machine['flags']) or 'none of the known instruction sets'}",
        f"- `--isa {machine['isa']}`: {ISA_WORDS[machine['isa']]}; the engine's kernels: {machine['kernels']}",
        f"- {packages}",
        f"- started {machine['started']}, load average {load}",
        *(
            ["- **The machine was busy: times, and ratios with several threads, are not to be quoted.**"]
            if busy
            else []
        ),
    ]


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of the same name and threads, in order."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.name, row.threads), []).append(row)
    return list(groups.values())


def _cells(row: Row) -> list[str]:
    numbers = [_number(row.median_ms, 2), _number(row.p10_ms, 2), _ratio(row), _number(row.mac_per_cycle, 1)]
    return [row.variant, *numbers, row.note]


def _best(rows: Sequence[Row], route: str) -> str:
    rates = [row.mac_per_cycle for row in rows if row.variant == route and row.mac_per_cycle is not None]
    return f"{max(rates):.1f} ({np.median(rates):.1f})" if rates else "-"


def _ratio(row: Row | None) -> str:
    if row is None or row.ratio_to_fast is None or row.ratio_quartiles is None:
        return "-"
    return f"{row.ratio_to_fast:.2f} ({row.ratio_quartiles[0]:.2f}-{row.ratio_quartiles[1]:.2f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


_ALIGNED = ["---", "---:", "---:", "---:", "---:", "---"]
