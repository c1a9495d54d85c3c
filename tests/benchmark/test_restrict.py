"""Restricting runtimes to AVX2: the errors here, the effect in a process of its own."""

import sys

import onnxruntime  # imported already: that is an error
import pytest
from restricted import NEEDS, RESTRICTABLE, X86_LINUX, run_restricted

from oaq_repro.benchmark import restrict
from oaq_repro.errors import InputError

SATURATES = """
import numpy as np
from oracles.reference import around, conv, q
from oaq_repro.integer.saturation import with_saturating_pairs
from oaq_repro.integer.reference import Reference
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.accumulator import NAMED
rng = np.random.default_rng(0)
weight = rng.integers(-128, 128, (32, 64, 1, 1))
layer = conv("layer", "x", q(), q(4000.0, 128), weight, accumulator=NAMED["int32"])
graph = around(layer, source=q())
image = rng.integers(100, 256, (1, 64, 6, 6)).astype(np.float32)
model = build_model(graph, (64, 6, 6))
by_default, with_exact_products = (run_onnx(model, image, exact)[0] for exact in (False, True))
pairs, exact = (Reference(each).run(image).outputs[0] for each in (with_saturating_pairs(graph), graph))
assert (pairs != exact).any()
print((by_default == pairs).all(), (with_exact_products == exact).all())
"""


@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_restricted_onnxruntime_saturates_pairs_as_the_audit_says():
    assert run_restricted(SATURATES).split() == ["True", "True"]


@pytest.mark.skipif(not X86_LINUX, reason="another message on other machines")
def test_errors(monkeypatch):
    cases = {"CPU without AVX2": {"sse2"}, "found .* imported already": {"avx2"}}
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime)
    for message, flags in cases.items():
        monkeypatch.setattr(restrict, "cpu_flags", lambda flags=flags: flags)
        with pytest.raises(InputError, match=message):
            restrict.restrict_to_avx2()


@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_a_library_that_asks_otherwise(monkeypatch):
    monkeypatch.setattr(restrict, "cpu_flags", lambda: {"avx2", "avx_vnni"})
    monkeypatch.setattr(restrict, "LIBRARIES", {"email": ("no library",)})
    for module in ("torch", "email"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(restrict.os, "environ", {})
    with pytest.raises(InputError, match="found AVX-VNNI, and no place where email asks for it; use --isa native"):
        restrict.restrict_to_avx2()


def test_other_machines(monkeypatch):
    monkeypatch.setattr(restrict.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match="on aarch64, expected Linux on x86-64; use --isa native"):
        restrict.restrict_to_avx2()
