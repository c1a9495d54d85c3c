"""ONNX Runtime on the CPU with products that are exact on every processor: what its results are compared with.

By default ONNX Runtime multiplies uint8 codes by int8 weights with `vpmaddubsw` where an x86 processor has no VNNI;
that instruction saturates the sum of two products at 16 bits, so a model's results depend on the processor. The session
option "session.x64quantprecision" = "1" rules that out (onnxruntime_session_options_config_keys.h).
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
ONLY_ERRORS = 3  # severities of ONNX Runtime's log: 0 all, 2 warnings


def onnx_session(model: onnx.ModelProto | bytes | Path | str, exact: bool = True, threads: int = 0) -> Any:
    """An `onnxruntime.InferenceSession` of a model or of its file.

    exact: no pair of products saturates on any processor; False: ONNX Runtime's own default. threads: 0 leaves the
    number to ONNX Runtime. Raises what ONNX Runtime raises for a model that it does not take.
    """
    import onnxruntime  # here: whoever restricts it to AVX2 has to do so before its first import

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_ERRORS
    options.intra_op_num_threads, options.inter_op_num_threads = threads, min(threads, 1)
    # Threads that wait for the next run would slow whatever runs meanwhile.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if exact:
        options.add_session_config_entry(*EXACT_PRODUCTS)
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
    content = str(content) if isinstance(content, Path) else content
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_onnx(model: onnx.ModelProto | bytes | Path | str, images: np.ndarray, exact: bool = True) -> list[np.ndarray]:
    """The outputs of a model with one input, in its order, on `images` [N, C, H, W]; see `onnx_session`."""
    session = onnx_session(model, exact)
    return session.run(None, {session.get_inputs()[0].name: images})
