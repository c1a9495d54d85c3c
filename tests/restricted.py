"""Programs that run as on a CPU with AVX2 and nothing newer: what saturates there is tested on any x86 machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

from oaq_repro.benchmark.machine import cpu_flags

X86_LINUX = sys.platform.startswith("linux") and platform.machine() == "x86_64"
RESTRICTABLE = X86_LINUX and "avx2" in cpu_flags()
NEEDS = "needs Linux on x86-64 with AVX2"
PREAMBLE = "from oaq_repro.benchmark.restrict import restrict_to_avx2\nrestrict_to_avx2()\n"


def run_restricted(program: str) -> str:
    """What a Python program prints in a process of its own that is restricted to AVX2; it may import from tests/."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PREAMBLE + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
