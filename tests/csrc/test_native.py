"""The C++ test program (test_kernels.cpp), built and run on this machine and for ARM."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "target, tools",
    [
        ("test-kernels", ["make", "cmake", "c++"]),
        ("test-neon", ["make", "cmake", "aarch64-linux-gnu-g++", "qemu-aarch64"]),
    ],
)
def test_every_kernel(target, tools):
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not found")
    run = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
