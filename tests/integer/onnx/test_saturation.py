"""The audit's prediction against what happens: ONNX Runtime restricted to AVX2, layer by layer, at its worst inputs.

Layers of one output pixel are made, and for every output channel the two images that reach its largest and its smallest
sums. The bias moves the exact sum to the middle of the output's codes, so that any saturated pair shows.
"""

import json

import numpy as np
import pytest
from oracles.reference import around, conv, linear, q
from restricted import NEEDS, RESTRICTABLE, run_restricted

from oaq_repro.integer import graph as ir
from oaq_repro.integer.audit import audit
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import run_onnx

F32 = np.float32
MIDDLE = 128
SHAPES = (  # outputs, inputs, groups, kernel; None: a matrix product
    (8, 16, 1, (1, 1)), (16, 3, 1, (3, 3)), (5, 7, 1, (2, 3)), (12, 8, 2, (3, 3)), (8, 16, 4, (1, 1)),
    (8, 4, 4, (3, 3)), (8, 8, 8, (3, 3)), (9, 33, 1, None), (4, 6, 1, None), (16, 64, 1, None),
)  # fmt: skip
SPREADS = (30, 60, 70, 90, 127)  # standard deviation of the weights: none, some or most pairs saturate


def layers(seed: int):
    """Graphs of one layer, the exact sums of its worst images as bias, and those images [2 * outputs, C, H, W]."""
    rng = np.random.default_rng(seed)
    outputs, inputs, groups, kernel = SHAPES[seed % len(SHAPES)]
    q_max = int(rng.choice([255, 255, 200, 130, 127]))
    zero_point = int(rng.choice([0, 3, q_max // 2]))
    source = q(1.0, zero_point, q_max)
    window = kernel or (1, 1)
    weight = np.clip(np.rint(rng.normal(0, SPREADS[seed // len(SHAPES) % len(SPREADS)],
                                        (outputs, inputs // groups, *window))), -128, 127).astype(int)  # fmt: skip
    if seed % 3 == 0:  # few large weights: only some orders pair them
        weight[rng.random(weight.shape) < 0.8] //= 8
    for sign in (1, -1):
        images, sums = [], []
        for o in range(outputs):
            first = o // (outputs // groups) * (inputs // groups)
            codes = rng.integers(0, q_max + 1, (inputs, *window))
            codes[first : first + inputs // groups] = np.where(sign * weight[o] > 0, q_max, 0)
            images.append(codes)
            sums.append(((codes[first : first + inputs // groups] - zero_point) * weight[o]).sum())
        output = q(0.01, MIDDLE)  # weight scales are 0.01: a sum and its code are the same number
        if kernel is None:
            nodes = (ir.Flatten("f", ("x",), source),
                     linear("layer", "f", source, output, weight.reshape(outputs, -1), [-s for s in sums]))  # fmt: skip
        else:
            nodes = (conv("layer", "x", source, output, weight, [-s for s in sums], groups=groups),)
        yield around(*nodes, source=source), (np.stack(images) - zero_point).astype(F32)


def outcomes(seeds: range) -> list[dict]:
    """Of each layer: the audit's verdict, and whether results are wrong by default and with exact products."""
    found = []
    for seed in seeds:
        wrong = {False: False, True: False}
        for graph, images in layers(seed):
            model = build_model(graph, images.shape[1:])
            (row,) = audit(graph)
            for exact in wrong:
                codes = run_onnx(model, images, exact)[0].reshape(len(images), -1) / F32(0.01) + MIDDLE
                wrong[exact] |= bool((np.rint(np.diagonal(codes)) != MIDDLE).any())
        found.append(
            {"seed": seed, "kind": row.kind, "pairs": row.pairs, "default": wrong[False], "exact": wrong[True]}
        )
    return found


@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_what_saturates_was_named_and_what_was_named_saturates():
    program = "import json\nfrom integer.onnx.test_saturation import outcomes\nprint(json.dumps(outcomes(range(150))))"
    found = json.loads(run_restricted(program))
    assert not any(layer["exact"] for layer in found)
    for layer in found:
        assert layer["default"] == (layer["pairs"] == "possible"), layer
    verdicts = {(layer["kind"] == "depthwise", layer["pairs"]) for layer in found}
    assert {(False, "possible"), (False, "depends on pairing"), (False, "exact"), (True, "exact")} <= verdicts


def test_exact_products_are_exact_on_this_processor():
    assert not any(layer["exact"] for layer in outcomes(range(50)))
