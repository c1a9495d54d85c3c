"""Makes peers run as on a CPU with AVX2 and nothing newer, in this process only. Our choice; Linux on x86-64.

This project is about CPUs without dot-product instructions; timings from a CPU that has them stand for those only if
no peer uses them. Torch has switches (ENVIRONMENT). ONNX Runtime has none, and OpenVINO's hides AVX-512 from oneDNN but
not from OpenVINO's own code, which then stores values as bfloat16 that the AVX2 kernels convert by a scalar loop.
Therefore: libraries believe in AVX-512 and AMX only where the operating system saves those registers, which they read
with the instruction `xgetbv`. Before a library is first used, each `xgetbv` in its code is overwritten, in memory, by
one that answers "x87, SSE and AVX registers". AVX-VNNI needs no other registers; where a processor has it, Linux makes
`cpuid` fault while each library looks at the processor, and our handler (csrc/cpuid.cpp) leaves it out of the answer.
"""

import ctypes
import importlib.util
import mmap
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from oaq_repro.benchmark.machine import cpu_flags
from oaq_repro.errors import InputError
from oaq_repro.integer.onnx.session import onnx_session

ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",  # torch's quantized kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # torch's and OpenVINO's oneDNN
}
LIBRARIES = {
    "onnxruntime": ("capi/libonnxruntime.so*", "capi/onnxruntime_pybind11_state*.so"),
    "openvino": ("libs/libopenvino.so*", "libs/libopenvino_intel_cpu_plugin.so"),
}  # in loading order: patterns in the packages' folders
XGETBV = b"\x0f\x01\xd0"
AVX_STATE_ONLY = b"\xb0\x07\x98"  # mov al, 7; cwde: eax = 7 | a part of no meaning here; bits 5 to 7, 17, 18 off


def restrict_to_avx2() -> dict[str, int]:
    """Call before torch, onnxruntime and openvino are imported; the number of patched instructions per package.

    InputError on other machines, where a peer is imported already, where the system does not let code be patched, or
    cannot hide AVX-VNNI.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "AMD64"):
        found = f"{sys.platform} on {platform.machine()}"
        raise InputError(f"--isa avx2: found {found}, expected Linux on x86-64; use --isa native")
    flags = cpu_flags()
    if "avx2" not in flags:
        raise InputError("--isa avx2: found a CPU without AVX2; use --isa native")
    for package in ("torch", *LIBRARIES):
        if package in sys.modules:
            raise InputError(f"--isa avx2: found {package} imported already, expected a process that has not used it")
    with _without_avx_vnni() if "avx_vnni" in flags else nullcontext():
        os.environ.update(ENVIRONMENT)
        patched = {package: _restrict(package, patterns) for package, patterns in LIBRARIES.items()}
        if "avx_vnni" in flags:
            _look_at_the_processor()
    return patched


@contextmanager
def _without_avx_vnni() -> Iterator[None]:
    from oaq_repro._cpuid import hide_avx_vnni, show_avx_vnni

    if not hide_avx_vnni():
        raise InputError("--isa avx2: found AVX-VNNI, which this system cannot hide; use --isa native")
    try:
        yield
    finally:
        show_avx_vnni()


def _look_at_the_processor() -> None:
    """Make the libraries choose their kernels now, for the rest of the process: they do so at the first use."""
    types = {"x": TensorProto.UINT8, "w": TensorProto.INT8, "y": TensorProto.INT32}
    x, w, y = (helper.make_tensor_value_info(name, kind, [1, 1]) for name, kind in types.items())
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "product", [x, w], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    feeds = {"x": np.ones((1, 1), np.uint8), "w": np.ones((1, 1), np.int8)}
    onnx_session(model, exact=False, threads=1).run(None, feeds)
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        openvino.Core().get_versions("CPU")  # loads the plugin


def _restrict(package: str, patterns: tuple[str, ...]) -> int:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return 0
    folder = Path(spec.submodule_search_locations[0])
    return sum(_patch(path.resolve()) for pattern in patterns for path in sorted(folder.glob(pattern)))


def _patch(library: Path) -> int:
    """Load a shared library and overwrite every `xgetbv` of its code."""
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return 0  # the package's own import will say what is wrong with it
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    patched = 0
    for first, last in _code_of(library):
        code = ctypes.string_at(first, last - first)
        places = [found.start() for found in re.finditer(re.escape(XGETBV), code)]
        if not places:
            continue
        if libc.mprotect(first, last - first, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
            reason = os.strerror(ctypes.get_errno())
            raise InputError(f"--isa avx2: {library.name}: its code cannot be patched ({reason}); use --isa native")
        for at in places:
            ctypes.memmove(first + at, AVX_STATE_ONLY, len(AVX_STATE_ONLY))
        libc.mprotect(first, last - first, mmap.PROT_READ | mmap.PROT_EXEC)
        patched += len(places)
    return patched


def _code_of(library: Path) -> list[tuple[int, int]]:
    """Executable mappings (first address, behind the last one) of a loaded library."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(library) and "x" in fields[1]:
            first, last = (int(address, 16) for address in fields[0].split("-"))
            found.append((first, last))
    return found
