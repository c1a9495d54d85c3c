"""A network small enough to measure within a test."""

import pytest
import torch

from oaq_repro import _kernels
from oaq_repro.benchmark import networks
from oaq_repro.models import classification

SHAPE = (3, 32, 32)
MACHINE = {
    "cpu": "a processor", "cores": 2, "flags": ["avx2"], "isa": "avx2", "kernels": "avx2", "clock_hz": 3e9,
    "load_average": [0.5, 0.5, 0.5], "packages": {"numpy": "2"}, "started": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """`tiny` is the only network; the clock is not measured; torch's settings come back afterwards."""

    def build():
        return classification.build(10, SHAPE, arch="mobilenetv2", width=0.1, stem="small")

    for name in list(networks.ARCHITECTURES):
        monkeypatch.delitem(networks.ARCHITECTURES, name)
    monkeypatch.setitem(networks.ARCHITECTURES, "tiny", networks.Architecture(build, SHAPE))
    monkeypatch.setattr(_kernels, "clock_hz", lambda: 3e9, raising=False)
    engine, threads = torch.backends.quantized.engine, torch.get_num_threads()
    yield "tiny"
    torch.backends.quantized.engine = engine
    torch.set_num_threads(threads)


@pytest.fixture
def machine():
    return MACHINE
