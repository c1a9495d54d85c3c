"""What a timing depends on beside the program: processor, clock, versions, load. For the reports' heads."""

import os
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from oaq_repro.integer.engine.node_times import clock_hz
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.results.provenance import hardware, utc_now

Isa = Literal["avx2", "native"]
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp")  # the last: ARM's dot product
PACKAGES = ("oaq_repro", "numpy", "torch", "onnxruntime", "openvino")


def describe(isa: Isa) -> dict[str, Any]:
    """Plain values for JSON; takes a moment, for the clock is measured (Hz, of one core at work)."""
    found = hardware()
    flags = cpu_flags()
    return {
        "cpu": found.cpu,
        "cores": found.cores,
        "flags": [flag for flag in FLAGS if flag in flags],
        "isa": isa,
        "kernels": kernels_in_use(),
        "clock_hz": clock_hz(),
        "load_average": list(os.getloadavg()),
        "packages": versions(),
        "started": utc_now(),
    }


def kernels_in_use() -> str:
    """Name of the engine's kernels (csrc/kernels.hpp): what OAQ_ISA asks for, else the best."""
    return InstructionSet.selected().isa


def cpu_flags() -> set[str]:
    """Names of what the processor can do, as Linux spells them; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def versions() -> dict[str, str]:
    """Of the installed packages that a timing depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
