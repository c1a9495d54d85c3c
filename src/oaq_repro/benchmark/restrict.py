"""Makes peers run as on a CPU with AVX2 and nothing newer, in this process only. Our choice; Linux on x86-64.

This project is about CPUs without dot-product instructions; timings from a CPU that has them stand for those only if
no peer uses them. Torch has switches (ENVIRONMENT). ONNX Runtime has none, and OpenVINO's hides AVX-512 from oneDNN but
not from OpenVINO's own code, which then stores values as bfloat16 that the AVX2 kernels convert by a scalar loop.
Therefore: libraries believe in AVX-512 and AMX only where the operating system saves those registers, which they read
with the instruction `xgetbv`. Before a library is first used, each `xgetbv` in its code is overwritten, in memory, by
one that answers "x87, SSE and AVX registers". AVX-VNNI needs no other registers: libraries ask `cpuid` for it, leaf 7,
sub-leaf 1, by instructions that are the same everywhere; they are made to ask for a sub-leaf that no processor has,
which is answered by zeros (Intel's and AMD's manuals).
"""

import ctypes
import importlib.util
import mmap
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from oaq_repro.benchmark.machine import cpu_flags
from oaq_repro.errors import InputError

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
ASKS_FOR_AVX_VNNI = b"\xb8\x07\0\0\0\xb9\x01\0\0\0\x0f\xa2"  # mov eax, 7; mov ecx, 1; cpuid
ASKS_FOR_NOTHING = b"\xb8\x07\0\0\0\xb9\x3f\0\0\0\x0f\xa2"  # mov ecx, 63


def restrict_to_avx2() -> dict[str, int]:
    """Call before torch, onnxruntime and openvino are imported; the number of patched instructions per package.

    InputError on other machines, where a peer is imported already, where the system does not let code be patched, or
    where the processor has AVX-VNNI and a peer does not ask for it as expected.
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
    os.environ.update(ENVIRONMENT)
    return {package: _restrict(package, patterns, "avx_vnni" in flags) for package, patterns in LIBRARIES.items()}


def _restrict(package: str, patterns: tuple[str, ...], has_avx_vnni: bool) -> int:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return 0
    folder = Path(spec.submodule_search_locations[0])
    changed = {XGETBV: 0, ASKS_FOR_AVX_VNNI: 0}
    for path in (path.resolve() for pattern in patterns for path in sorted(folder.glob(pattern))):
        for old, count in _patch(path, {XGETBV: AVX_STATE_ONLY, ASKS_FOR_AVX_VNNI: ASKS_FOR_NOTHING}).items():
            changed[old] += count
    if has_avx_vnni and not changed[ASKS_FOR_AVX_VNNI]:
        raise InputError(f"--isa avx2: found AVX-VNNI, and no place where {package} asks for it; use --isa native")
    return sum(changed.values())


def _patch(library: Path, changes: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """Load a shared library and overwrite code by other code of the same length; how often each was found."""
    found = dict.fromkeys(changes, 0)
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return found  # the package's own import will say what is wrong with it
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for first, last in _code_of(library):
        code = ctypes.string_at(first, last - first)
        places = [(place.start(), old) for old in changes for place in re.finditer(re.escape(old), code)]
        if not places:
            continue
        if libc.mprotect(first, last - first, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
            reason = os.strerror(ctypes.get_errno())
            raise InputError(f"--isa avx2: {library.name}: its code cannot be patched ({reason}); use --isa native")
        for at, old in places:
            ctypes.memmove(first + at, changes[old], len(old))
            found[old] += 1
        libc.mprotect(first, last - first, mmap.PROT_READ | mmap.PROT_EXEC)
    return found


def _code_of(library: Path) -> list[tuple[int, int]]:
    """Executable mappings (first address, behind the last one) of a loaded library."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(library) and "x" in fields[1]:
            first, last = (int(address, 16) for address in fields[0].split("-"))
            found.append((first, last))
    return found
