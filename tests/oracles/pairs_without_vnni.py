"""A program: what ONNX Runtime computes on x86 without VNNI, beside what the audit says; one line per kind of layer.

Prints `<case>: <verdict> differs|equal`; exit status 1 where the audit called a layer exact that differs, or where none
differs that it called possible. On a processor with VNNI it has to be restricted before (`restricted.py`).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from oracles.layer_models import Y_SCALE, layer_model

from oaq_repro.integer.onnx.audit import audit_onnx
from oaq_repro.integer.onnx.session import run_onnx

RNG = np.random.default_rng(0)
CODES = {"u8": np.uint8, "s8": np.int8}
CASES = {
    "Conv 1x1": ("Conv", (32, 64, 1, 1), (1, 64, 6, 6), {}),
    "Conv 3x3, 5 channels": ("Conv", (7, 5, 3, 3), (1, 5, 6, 6), {}),
    "Conv in 2 groups": ("Conv", (8, 5, 3, 3), (1, 10, 6, 6), {"group": 2}),
    "Conv, two outputs per channel": ("Conv", (64, 1, 3, 3), (1, 32, 6, 6), {"group": 32}),
    "Conv, depthwise": ("Conv", (32, 1, 3, 3), (1, 32, 6, 6), {"group": 32}),
    "Conv, depthwise, 5 channels": ("Conv", (5, 1, 3, 3), (1, 5, 6, 6), {"group": 5}),
    "Conv in 1 dimension": ("Conv", (16, 16, 3), (1, 16, 9), {}),
    "Conv in 3 dimensions": ("Conv", (16, 6, 2, 2, 2), (1, 6, 4, 4, 4), {}),
    "Conv, not quantized again": ("Conv", (32, 64, 1, 1), (1, 64, 6, 6), {"requantized": False}),
    "ConvTranspose": ("ConvTranspose", (16, 8, 2, 2), (1, 16, 4, 4), {}),
    "MatMul": ("MatMul", (64, 32), (4, 64), {"axis": 1}),
    "MatMul of one row": ("MatMul", (37, 32), (1, 37), {"axis": 1}),
    "MatMul, not quantized again": ("MatMul", (64, 32), (4, 64), {"axis": 1, "requantized": False}),
    "Gemm": ("Gemm", (32, 64), (4, 64), {"transB": 1}),
    "QLinearConv": ("QLinearConv", (32, 64, 1, 1), (1, 64, 6, 6), {}),
    "QLinearMatMul": ("QLinearMatMul", (64, 32), (4, 64), {}),
    "QGemm": ("com.microsoft.QGemm", (64, 32), (4, 64), {}),
    "ConvInteger 3x3, 5 channels": ("ConvInteger", (7, 5, 3, 3), (1, 5, 6, 6), {}),
    "ConvInteger, depthwise": ("ConvInteger", (32, 1, 3, 3), (1, 32, 6, 6), {"group": 32}),
    "ConvInteger in 2 groups": ("ConvInteger", (8, 5, 3, 3), (1, 10, 6, 6), {"group": 2}),
    "MatMulInteger": ("MatMulInteger", (64, 32), (4, 64), {}),
    "MatMulInteger of one row": ("MatMulInteger", (64, 32), (1, 64), {}),
}


def main() -> int:
    wrong = 0
    for codes in CODES:
        for weights in CODES:
            for name, (op, size, shape, fields) in CASES.items():
                if (codes, weights) == ("s8", "u8") and op in ("QLinearConv", "QLinearMatMul", "com.microsoft.QGemm"):
                    continue  # ONNX Runtime does not have them
                wrong += not agrees(f"{codes} {weights} {name}", codes, weights, op, size, shape, fields)
    return int(wrong > 0)


def agrees(case, codes, weights, op, size, shape, fields) -> bool:
    low, middle = (np.iinfo(CODES[kind]).min for kind in (codes, weights))
    weight = RNG.integers(middle, middle + 256, size).astype(CODES[weights])

    def model(op):
        return layer_model(op, weight, shape, CODES[codes](low), CODES[weights](middle + 128), **fields)

    x = RNG.integers(100, 256, shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model(op), path)
        (row,) = audit_onnx(path).layers
        (found,) = run_onnx(path, x, exact=False)
    known = "QLinearMatMul" if op == "com.microsoft.QGemm" else op  # to ONNX's reference implementation
    (exact,) = ReferenceEvaluator(model(known)).run(None, {"x": x})
    differs = bool((np.abs(found - exact) > 1.5 * Y_SCALE).any())  # more than the rounding of sums in float
    print(f"{case}: {row.pairs} {'differs' if differs else 'equal'}")
    # s8 s8: whether ONNX Runtime turns codes into uint8 depends on what else the model holds
    return (
        not differs if row.pairs == "exact" else differs or row.pairs != "possible" or (codes, weights) == ("s8", "s8")
    )


if __name__ == "__main__":
    sys.exit(main())
