"""Other runtimes: the same network in each one's fastest form, on a fixed input of batch 1.

A builder makes a runner or raises; whatever it raises becomes the note of a row without a time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oaq_repro.benchmark.agreement import compare
from oaq_repro.benchmark.case import Case
from oaq_repro.benchmark.machine import Isa
from oaq_repro.benchmark.plain_onnx import build_plain_model
from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import onnx_session

TRIALS = 8  # of each form of a model, to choose the faster one
FORMS = {"exported": build_model, "plain": build_plain_model}


@dataclass(frozen=True)
class Runner:
    """run: one image through the model, its outputs. expected: what they should be like. note: for the report."""

    run: Callable[[], list[Array]]
    expected: tuple[Array, ...]
    note: str = ""


@dataclass(frozen=True)
class Peer:
    """kind: how figures mark it. build: for a network, threads and the instruction sets allowed."""

    name: str
    kind: str
    build: Callable[[Case, int, Isa], Runner]


def _session_runner(session: Any, image: Array) -> Callable[[], list[Array]]:
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)


def onnxruntime_int8(case: Case, threads: int, isa: Isa) -> Runner:
    """The faster form. The exported one gives the reference's bits: on 32-bit sums with kernels that cannot saturate,
    and, on a CPU with no more than AVX2, on sums of saturated pairs with those that are timed."""
    content = {form: build(case.int8, case.input_shape).SerializeToString() for form, build in FORMS.items()}
    exact = onnx_session(content["exported"], threads=threads)
    if not (found := compare(_session_runner(exact, case.image)(), case.expected("int8"))).equal:
        raise InputError(f"without saturating pairs: differs from the reference by up to {found.difference:.1%}")
    runs = {
        form: _session_runner(onnx_session(model, exact=False, threads=threads), case.image)
        for form, model in content.items()
    }
    as_timed = {sums: compare(runs["exported"](), case.expected(sums)) for sums in ("int8", "pairs")}
    form = faster(runs)
    if as_timed["int8"].equal:
        return Runner(runs[form], case.expected("int8"), f"{form} QDQ; nothing saturates")
    if isa == "avx2" and not as_timed["pairs"].equal:
        raise InputError("its results are neither those of 32-bit sums nor those of saturated pairs")
    saturated = f"{form} QDQ; pairs saturate: up to {as_timed['int8'].difference:.1%} off the 32-bit results"
    return Runner(runs[form], case.expected("pairs"), saturated)


def onnxruntime_fp32(case: Case, threads: int, isa: Isa) -> Runner:
    """The float network."""
    return Runner(
        _session_runner(onnx_session(case.float_onnx, exact=False, threads=threads), case.image), case.float_outputs
    )


def openvino_int8(case: Case, threads: int, isa: Isa) -> Runner:
    """The faster form."""
    runs = {
        form: _compiled(build(case.int8, case.input_shape).SerializeToString(), case, threads)
        for form, build in FORMS.items()
    }
    form = faster({form: run for form, (run, _) in runs.items()})
    run, kernels = runs[form]
    return Runner(run, case.expected("int8"), f"{form} QDQ; convolutions: {kernels}")


def openvino_fp32(case: Case, threads: int, isa: Isa) -> Runner:
    """The float network, in float32 where bfloat16 would be faster too."""
    run, kernels = _compiled(str(case.float_onnx), case, threads, INFERENCE_PRECISION_HINT="f32")
    return Runner(run, case.float_outputs, f"convolutions: {kernels}")


def _compiled(model: bytes | str, case: Case, threads: int, **properties: str) -> tuple[Callable[[], list[Array]], str]:
    """A run, and the kernels of the convolutions."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(case.image.shape)
    hints = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = core.compile_model(read, "CPU", {**hints, **properties})
    request = compiled.create_infer_request()
    outputs = [compiled.output(at) for at in range(len(compiled.outputs))]

    def run() -> list[Array]:
        found = request.infer([case.image], share_inputs=True, share_outputs=True)
        return [found[output] for output in outputs]

    used = {
        info["primitiveType"].astype(str)
        for info in (operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops())
        if info["layerType"].astype(str) == "Convolution"
    }
    return run, ", ".join(sorted(used))


def torch_int8(engine: str | None) -> Callable[[Case, int, Isa], Runner]:
    """Torch's own quantization for an engine; None: what torch's x86 engine uses on the CPUs that stand for `isa`."""

    def build(case: Case, threads: int, isa: Isa) -> Runner:
        from oaq_repro.benchmark.torch_int8 import quantized_runner

        # The engine x86 is fbgemm where the CPU has no VNNI, which torch looks for itself.
        chosen = engine or ("fbgemm" if isa == "avx2" else "x86")
        return Runner(quantized_runner(case, threads, chosen), case.float_outputs, f"engine {chosen}")

    return build


def without(reason: str) -> Callable[[Case, int, Isa], Runner]:
    """A peer that cannot be timed here."""

    def build(case: Case, threads: int, isa: Isa) -> Runner:
        raise InputError(reason)

    return build


def faster(runs: dict[str, Callable[[], Any]]) -> str:
    """The name of the run with the shortest time, out of a few each."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(TRIALS):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return min(best, key=lambda name: best[name])


def attempt(peer: Peer, case: Case, threads: int, isa: Isa) -> tuple[Runner | None, str]:
    """A runner whose results were looked at, and what to say about it; None where it cannot be timed."""
    try:
        runner = peer.build(case, threads, isa)
        found = compare([np.asarray(output) for output in runner.run()], runner.expected)
    except Exception as error:  # runtimes raise what they like; the row says what
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        return None, f"not timed: {reason}"
    agreement = "equal to the expected" if found.equal else f"cosine with the expected {found.cosine:.4f}"
    note = "; ".join(part for part in (runner.note, agreement) if part)
    return (runner, note) if found.cosine >= LEAST_COSINE else (None, f"not timed: another network's results ({note})")


LEAST_COSINE = 0.3  # random deep networks magnify what saturated pairs and other ranges change
NO_NCNN = "ncnn's Python package has no tool to calibrate and quantize (ncnn2table, ncnn2int8)"
NO_LITERT = "LiteRT's Python package makes no models from ONNX or integer constants"
PEERS = (
    Peer("onnxruntime int8", "int8", onnxruntime_int8),
    Peer("openvino int8", "int8", openvino_int8),
    Peer("torch int8", "int8", torch_int8(None)),
    Peer("torch int8 onednn", "int8", torch_int8("onednn")),
    Peer("ncnn int8", "int8", without(NO_NCNN)),
    Peer("litert int8", "int8", without(NO_LITERT)),
    Peer("onnxruntime fp32", "fp32", onnxruntime_fp32),
    Peer("openvino fp32", "fp32", openvino_fp32),
)
