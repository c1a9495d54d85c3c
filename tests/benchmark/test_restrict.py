"""Restricting runtimes to AVX2: the errors here, the effect in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import onnxruntime  # noqa: F401  (imported already: that is an error)
import pytest

from oaq_repro.benchmark import restrict
from oaq_repro.benchmark.machine import cpu_flags
from oaq_repro.errors import InputError

X86_LINUX = sys.platform.startswith("linux") and platform.machine() == "x86_64"
RESTRICTABLE = X86_LINUX and "avx2" in cpu_flags() and "avx_vnni" not in cpu_flags()

SATURATES = """
from oaq_repro.benchmark.restrict import restrict_to_avx2
patched = restrict_to_avx2()
import numpy as np, onnxruntime
from integer.reference import around, conv, q
from oaq_repro.benchmark.agreement import with_saturating_pairs
from oaq_repro.integer.executor import Executor
from oaq_repro.integer.onnx_export import build_model
from oaq_repro.quant.accumulator import NAMED
rng = np.random.default_rng(0)
weight = rng.integers(-128, 128, (32, 64, 1, 1))
layer = conv("layer", "x", q(), q(4000.0, 128), weight, accumulator=NAMED["int32"])
graph = around(layer, source=q())
image = rng.integers(100, 256, (1, 64, 6, 6)).astype(np.float32)
session = onnxruntime.InferenceSession(build_model(graph, (64, 6, 6)).SerializeToString())
found = session.run(None, {session.get_inputs()[0].name: image})[0]
pairs, exact = (Executor(each).run(image).outputs[0] for each in (with_saturating_pairs(graph), graph))
assert (pairs != exact).any()
print(patched["onnxruntime"] > 0, (found == pairs).all())
"""


@pytest.mark.skipif(not RESTRICTABLE, reason="needs Linux on x86-64 with AVX2 and without AVX-VNNI")
def test_restricted_onnxruntime_saturates_pairs_as_the_audit_says():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SATURATES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.skipif(not X86_LINUX, reason="another message on other machines")
def test_errors(monkeypatch):
    cases = {
        "CPU without AVX2": {"sse2"},
        "found AVX-VNNI, which cannot be hidden": {"avx2", "avx_vnni"},
        "found .* imported already": {"avx2"},
    }
    for message, flags in cases.items():
        monkeypatch.setattr(restrict, "cpu_flags", lambda flags=flags: flags)
        with pytest.raises(InputError, match=message):
            restrict.restrict_to_avx2()


def test_other_machines(monkeypatch):
    monkeypatch.setattr(restrict.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match="on aarch64, expected Linux on x86-64; use --isa native"):
        restrict.restrict_to_avx2()
