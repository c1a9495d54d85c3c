"""Runs a suite and writes what it found after every part, so that an interruption loses only the part at hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from oaq_repro.benchmark import figures, report
from oaq_repro.benchmark.kernels import measure_kernels, shapes_of
from oaq_repro.benchmark.machine import Isa, describe
from oaq_repro.benchmark.models import measure_models
from oaq_repro.benchmark.networks import ARCHITECTURES
from oaq_repro.benchmark.peers import PEERS
from oaq_repro.benchmark.timing import Row
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic

Suite = Literal["kernels", "models"]
CLASSIFIERS = ("mobilenetv1", "mobilenetv2", "resnet18", "resnet50")


def run(
    suite: Suite, out: Path, threads: Sequence[int], networks: Sequence[str] | None, rounds: int, isa: Isa
) -> list[Path]:
    """Measure, and write `<suite>.json`, `<suite>.md` and figures into `out`; their paths.

    With isa `avx2` the caller has restricted the process already (`restrict`). InputError for unknown networks.
    """
    networks = list(networks or (CLASSIFIERS if suite == "kernels" else ARCHITECTURES))
    for name in networks:
        if name not in ARCHITECTURES:
            raise InputError(f"--networks: found {name!r}, expected some of {', '.join(ARCHITECTURES)}")
    machine = describe(isa)
    clock, folder = machine["clock_hz"], out / "networks"
    shapes = shapes_of(networks, folder) if suite == "kernels" else []
    total = rounds * len(threads) * (len(shapes) if suite == "kernels" else len(networks))
    rows: list[Row] = []
    written: list[Path] = []
    with tqdm(total=total, desc=suite, unit="round") as bar:
        parts = (
            measure_kernels(shapes, threads, rounds, clock, bar.update)
            if suite == "kernels"
            else measure_models(networks, threads, rounds, folder, isa, clock, PEERS, bar.update)
        )
        for part in parts:
            rows += part
            written = _write(suite, out, machine, rows)
    return [*written, *figures.write_figures(out, suite, rows)]


def _write(suite: Suite, out: Path, machine: dict, rows: Sequence[Row]) -> list[Path]:
    markdown = report.kernels_markdown if suite == "kernels" else report.models_markdown
    return [
        report.write_json(out / f"{suite}.json", machine, rows),
        write_atomic(out / f"{suite}.md", markdown(machine, rows)),
    ]
