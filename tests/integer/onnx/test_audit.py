"""The audit of ONNX models: against worst cases by trying, against the import, on models of real tools and odd ones."""

import itertools

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracles.layer_models import assemble, layer_model, node
from oracles.onnx_models import float_network, quantized_network, small_qdq
from oracles.onnx_models import model as qdq_model
from restricted import NEEDS, RESTRICTABLE, run_restricted

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.integer.audit import audit
from oaq_repro.integer.onnx.audit import NEWEST_OPSET, OLDEST_OPSET, audit_onnx
from oaq_repro.integer.onnx.importer import import_onnx
from oaq_repro.integer.onnx.session import run_onnx

F32 = np.float32
RNG = np.random.default_rng(5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def audited(path, model):
    onnx.save(model, path)
    return audit_onnx(path)


def row_of(path, model):
    (row,) = audited(path, model).layers
    return row


def rows_of_products(op, weight, shape, **attributes):
    """What every output adds up, by running the layer on unit impulses: [outputs, inputs], exact in float32."""
    constants = {"w": weight.astype(F32)}
    model = assemble([node(op, ["x", "w"], "y", **attributes)], constants, ("N", *shape[1:]), opset=17)
    count = int(np.prod(shape))
    impulses = np.eye(count, dtype=F32).reshape(count, *shape[1:])
    (found,) = run_onnx(model, impulses)
    return found.reshape(count, -1).T


def largest_by_trying(products, low, high):
    """Largest |sum| / limit of 16 bits over all inputs at their extremes, for every output."""
    worst = 0.0
    for row in np.unique(products, axis=0):
        weights = row[row != 0]
        assert len(weights) <= 12
        for corner in itertools.product((low, high), repeat=len(weights)):
            total = float(np.dot(weights, corner))
            worst = max(worst, total / 32767, total / -32768)
    return worst


TYPES = {
    "uint8": (np.uint8, 0, 255),
    "int8": (np.int8, -128, 127),
    "int16": (np.int16, -32768, 32767),
    "uint16": (np.uint16, 0, 65535),
    "int4": (ml_dtypes.int4, -8, 7),
    "uint4": (ml_dtypes.uint4, 0, 15),
}
LAYERS = {
    "Conv": ("Conv", (3, 2, 2, 2), (1, 2, 3, 3), {}),
    "Conv padded, strided": ("Conv", (3, 2, 2, 2), (1, 2, 4, 4), {"pads": [1] * 4, "strides": [2, 2]}),
    "Conv dilated, in groups": ("Conv", (4, 2, 2, 2), (1, 4, 3, 3), {"group": 2, "dilations": [2, 2]}),
    "Conv in 1 dimension": ("Conv", (3, 3, 3), (1, 3, 5), {}),
    "Conv in 3 dimensions": ("Conv", (2, 1, 2, 2, 2), (1, 1, 2, 2, 2), {}),
    "ConvTranspose": ("ConvTranspose", (2, 3, 2, 2), (1, 2, 3, 3), {}),
    "ConvTranspose strided": ("ConvTranspose", (2, 3, 3, 3), (1, 2, 3, 3), {"strides": [2, 2]}),
    "ConvTranspose in groups": ("ConvTranspose", (4, 3, 3, 2), (1, 4, 3, 3), {"strides": [2, 1], "group": 2}),
    "ConvTranspose dilated": ("ConvTranspose", (2, 2, 2, 3), (1, 2, 4, 4), {"dilations": [2, 1], "strides": [1, 2]}),
    "MatMul": ("MatMul", (5, 3), (1, 5), {"axis": 1}),
    "MatMul of vectors": ("MatMul", (6,), (1, 6), {}),
    "Gemm": ("Gemm", (5, 3), (1, 5), {"axis": 1}),
    "Gemm transposed": ("Gemm", (3, 5), (1, 5), {"transB": 1}),
}  # fmt: skip


@pytest.mark.parametrize("codes", TYPES)
@pytest.mark.parametrize("layer", LAYERS)
def test_worst_case_by_trying(path, layer, codes):
    """Every type of codes and weights, zero points anywhere."""
    op, size, shape, fields = LAYERS[layer]
    x_type, x_low, x_high = TYPES[codes]
    attributes = {name: value for name, value in fields.items() if name != "axis"}
    for weights in TYPES:
        w_type, low, high = TYPES[weights]
        weight = RNG.integers(low, high + 1, size)
        x_zero, w_zero = (int(RNG.integers(*limits)) for limits in ((x_low, x_high), (low // 4, high // 4 + 1)))
        model = layer_model(op, weight.astype(w_type), shape, x_type(x_zero), w_type(w_zero), **fields)
        row = row_of(path, model)
        width = 8 if high < 256 else 16
        operand = weight - w_zero
        if operand.min() < -(2 ** (width - 1)) or operand.max() >= 2 ** (width - 1):  # stays outside the register
            operand = weight - (high + 1) // 2 if low == 0 else weight
        products = rows_of_products(op, operand, shape, **attributes)
        assert row.worst_case == pytest.approx(largest_by_trying(products, x_low - x_zero, x_high - x_zero), rel=1e-6)
        assert row.depth == (np.abs(rows_of_products(op, np.ones(size), shape, **attributes)) > 0).sum(axis=1).max()
        assert row.q_max == x_high - x_low
        if row.narrowest is None:
            assert row.worst_case > 2**31 / 32769
        elif row.narrowest == NAMED["int16"]:
            assert row.worst_case <= 1


@pytest.mark.parametrize(
    "zero_point, codes, operand",
    [
        (128, [0, 255], [-128, 127]),
        (127, [0, 254], [-127, 127]),  # folded
        (127, [0, 255], [-128, 127]),  # 255 - 127 is no int8: the codes less 128
        (64, [1, 127], [-63, 63]),
        (0, [1, 255], [-127, 127]),
    ],
)
def test_zero_points_of_uint8_weights(path, zero_point, codes, operand):
    weight = np.array(codes, np.uint8)[:, None]
    row = row_of(path, layer_model("MatMul", weight, (1, 2), w_zero=np.uint8(zero_point), axis=1))
    assert row.worst_case == pytest.approx(max(255 * operand[1] / 32767, 255 * operand[0] / -32768))


def test_longest_block_follows_kernel_row_column_and_channel(path):
    weight = RNG.integers(-128, 128, (1, 3, 2, 2)).astype(np.int8)
    row = row_of(path, layer_model("Conv", weight, (1, 3, 4, 4)))
    order = [int(weight[0, c, i, j]) for i in range(2) for j in range(2) for c in range(3)]

    def fits(block):
        parts = [order[at : at + block] for at in range(0, 12, block)]
        return all(
            255 * sum(w for w in p if w > 0) <= 32767 and 255 * sum(w for w in p if w < 0) >= -32768 for p in parts
        )

    assert row.longest_block == max((block for block in range(1, 13) if fits(block)), default=0)


@pytest.mark.parametrize("bounds, q_max", [((0, 100), 100), ((10, 200), 190), ((0, 255), 255)])
def test_a_clip_on_codes_bounds_them(path, bounds, q_max):
    weight = np.full((3, 1), 100, np.int8)
    row = row_of(path, layer_model("MatMul", weight, (1, 3), np.uint8(10), bounds=bounds, axis=1))
    assert row.q_max == q_max
    assert row.worst_case == pytest.approx(max((bounds[1] - 10) * 300 / 32767, (10 - bounds[0]) * 300 / 32768))


def test_a_clip_before_the_quantizer_bounds_codes(path):
    weight = np.full((3, 1), 100, np.int8)
    constants = {"s": F32(0.03), "z": np.uint8(20), "w": weight, "ws": F32(1), "low": F32(0), "high": F32(6)}
    nodes = [
        node("Clip", ["x", "low", "high"], "c"), node("Flatten", ["c"], "f"),
        node("QuantizeLinear", ["f", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w", "ws"], "wd"), node("MatMul", ["d", "wd"], "y"),
    ]  # fmt: skip
    row = row_of(path, assemble(nodes, constants, (1, 3)))
    assert row.q_max == 200 and row.worst_case == pytest.approx(200 * 300 / 32767)


@pytest.mark.parametrize(
    "options",
    [{}, {"per_channel": True}, {"weights": "QInt8", "codes": "QInt8"}, {"per_channel": True, "reduce_range": True}],
)
def test_rows_are_those_of_the_imported_graph(tmp_path, options):
    from onnxruntime.quantization import QuantType

    types = {"weights": "weight_type", "codes": "activation_type"}
    options = {types.get(k, k): getattr(QuantType, v) if k in types else v for k, v in options.items()}
    path = quantized_network(tmp_path, **options)
    found = audit_onnx(path)
    assert found.layers == audit(import_onnx(path)) and not found.passed_over


def test_rows_of_small_models_are_those_of_the_imported_graph(path):
    for changes in ({}, {"weight_scale": np.full(4, 0.02)}, {"zero_point": np.int8(-5), "out_zero_point": np.int8(3)}):
        found = audited(path, qdq_model(*small_qdq(**changes)))
        assert found.layers == audit(import_onnx(path)) and found.total == 1


# ---- pairs


FULL = np.full((2, 64), 127)
ALTERNATING = np.tile([127, -128, 1, 0], (2, 16))  # neighbours never saturate, others do


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "QLinearMatMul", "com.microsoft.QGemm", "MatMulInteger",
                                "com.microsoft.MatMulIntegerToFloat"])  # fmt: skip
def test_pairs_of_products(path, op):
    for codes, verdict in ((FULL, "possible"), (ALTERNATING, "depends on pairing"), (FULL // 2, "exact")):
        weight = codes.T.astype(np.int8)
        assert row_of(path, layer_model(op, weight, (1, 64), axis=1)).pairs == verdict
        on_codes = op not in ("MatMul", "Gemm")
        signed = layer_model(op, weight, (1, 64), np.int8(-128), axis=1)
        assert row_of(path, signed).pairs == ("exact" if on_codes else verdict)
        unsigned = (codes.T + 128).astype(np.uint8)
        assert row_of(path, layer_model(op, unsigned, (1, 64), w_zero=np.uint8(128), axis=1)).pairs == "exact"


def test_pairs_of_convolutions(path):
    def verdict(weight, shape, **fields):
        return row_of(path, layer_model("Conv", np.asarray(weight, np.int8), shape, **fields)).pairs

    full = np.full((4, 2, 1, 1), 127)
    assert verdict(full, (1, 4, 3, 3), group=2) == "possible"
    assert verdict(np.full((4, 1, 2, 2), 127), (1, 4, 3, 3), group=4) == "exact"  # depthwise
    assert verdict(np.full((4, 1, 2, 2), 127), (1, 2, 3, 3), group=2) == "possible"
    assert verdict(full, (1, 2, 3, 3), requantized=False) == "depends on pairing"  # ONNX Runtime runs it in float
    # channels are neighbours, not columns
    columns = np.zeros((1, 2, 1, 2))
    columns[0, 0] = 127
    assert verdict(columns, (1, 2, 3, 3)) == "depends on pairing"
    assert verdict(columns.transpose(0, 3, 2, 1), (1, 2, 3, 3)) == "possible"


def test_pairs_of_convinteger(path):
    """Its weights are the left operand: only those of uint8 by int8 codes saturate, and columns are neighbours."""

    def verdict(weight, codes, **fields):
        return row_of(path, layer_model("ConvInteger", weight, (1, 2, 3, 3), codes, **fields)).pairs

    columns = np.zeros((1, 2, 1, 2), np.uint8)
    columns[0, 0] = 255
    rows = columns.transpose(0, 3, 2, 1).copy()
    assert verdict(columns, np.int8(-128)) == "possible"
    assert verdict(rows, np.int8(-128)) == "depends on pairing"
    assert verdict(columns // 2, np.int8(-128)) == "exact"  # 127 * 2 * -128 is no more than 16 bits hold
    assert verdict(np.full((2, 1, 1, 2), 255, np.uint8), np.int8(0), group=2) == "possible"  # depthwise too
    for weight, codes in ((columns, np.uint8(0)), (-columns.astype(np.int8) * 127, np.int8(0))):
        assert verdict(weight, codes) == "exact"
    assert verdict(np.full((1, 2, 1, 2), 127, np.int8), np.uint8(0)) == "exact"


def test_pairs_where_there_is_no_integer_kernel(path):
    weight = np.full((4, 2, 2, 2), 127, np.int8)
    assert row_of(path, layer_model("ConvTranspose", weight, (1, 4, 3, 3))).pairs == "depends on pairing"
    assert row_of(path, layer_model("ConvTranspose", weight // 2, (1, 4, 3, 3))).pairs == "exact"
    assert row_of(path, layer_model("Conv", weight, (1, 2, 3, 3), np.int16(0))).pairs == "exact"  # not 8 bits
    four = np.full((4, 2, 2, 2), 7).astype(ml_dtypes.int4)
    assert row_of(path, layer_model("Conv", four, (1, 2, 3, 3))).pairs == "exact"


@pytest.mark.slow
@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_pairs_are_what_onnxruntime_computes_without_vnni():
    run_restricted("import sys\nfrom oracles.pairs_without_vnni import main\nsys.exit(main())")


# ---- forms of weights


def test_weights_in_every_form(path):
    """Laid out anew before and after DequantizeLinear, clipped, quantized in the model: the row stays the same."""
    weight = RNG.integers(-100, 101, (6, 4)).astype(np.int8)
    scale = np.full(4, 0.5, F32)
    base = {"s": F32(1), "z": np.uint8(0), "ws": scale, "wz": np.zeros(4, np.int8)}
    head = [node("QuantizeLinear", ["x", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "d")]
    forms = {
        "plain": ({"w": weight}, [node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=1)]),
        "transposed before": (
            {"w": weight.T.copy()},
            [node("Transpose", ["w"], "t"), node("DequantizeLinear", ["t", "ws", "wz"], "wd", axis=1)],
        ),
        "transposed after": (
            {"w": weight.T.copy()},
            [node("DequantizeLinear", ["w", "ws", "wz"], "t", axis=0), node("Transpose", ["t"], "wd")],
        ),
        "reshaped, cast": (
            {"w": weight.reshape(6, 2, 2), "shape": np.array([6, 4])},
            [node("Reshape", ["w", "shape"], "r"), node("Identity", ["r"], "i"),
             node("DequantizeLinear", ["i", "ws", "wz"], "f", axis=-1), node("Cast", ["f"], "wd", to=1)],
        ),
        "clipped": (
            {"w": np.where(weight == weight.max(), 127, weight).astype(np.int8), "low": np.int8(-100),
             "high": np.int8(weight.max())},
            [node("Clip", ["w", "low", "high"], "c"), node("DequantizeLinear", ["c", "ws", "wz"], "wd", axis=1)],
        ),
        "quantized": (
            {"w": weight.astype(F32) / 2},
            [node("QuantizeLinear", ["w", "ws", "wz"], "c", axis=1),
             node("DequantizeLinear", ["c", "ws", "wz"], "wd", axis=1)],
        ),
        "without zero point": ({"w": weight}, [node("DequantizeLinear", ["w", "ws"], "wd", axis=1)]),
        "of ONNX Runtime's domain": (
            {"w": weight}, [node("com.microsoft.DequantizeLinear", ["w", "ws", "wz"], "wd", axis=1)],
        ),
        "Constant node": (
            {},
            [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
             node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=1)],
        ),
    }  # fmt: skip
    rows = {
        name: row_of(path, assemble([*head, *nodes, node("MatMul", ["d", "wd"], "y")], base | constants, (1, 6)))
        for name, (constants, nodes) in forms.items()
    }
    assert rows["plain"].depth == 6 and set(rows.values()) == {rows["plain"]}


def test_weights_on_the_left(path):
    weight = RNG.integers(-100, 101, (4, 6)).astype(np.int8)
    constants = {"s": F32(1), "z": np.uint8(0), "w": weight, "ws": F32(1)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"), node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w", "ws"], "wd"), node("MatMul", ["wd", "d"], "y"),
    ]  # fmt: skip
    left = row_of(path, assemble(nodes, constants, (6, 5)))
    right = row_of(path, layer_model("MatMul", weight.T.copy(), (1, 6), axis=1))
    assert (left.depth, left.worst_case, left.longest_block) == (right.depth, right.worst_case, right.longest_block)


def test_float16_scales(path):
    weight = np.full((3, 2), 50, np.int8)
    nodes = [node("Cast", ["x"], "h", to=TensorProto.FLOAT16)]
    model = layer_model("MatMul", weight, (1, 3), x_scale=np.float16(0.1), w_scale=np.float16(0.1),
                        y_scale=np.float16(1), axis=1)  # fmt: skip
    model.graph.node[0].input[0] = "h"
    model.graph.node.insert(0, nodes[0])
    assert row_of(path, model).worst_case == pytest.approx(255 * 150 / 32767)


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 2))
def test_opsets(path, opset):
    model = layer_model("Conv", np.full((2, 2, 1, 1), 100, np.int8), (1, 2, 3, 3), opset=opset)
    found = audited(path, model)
    assert found.layers[0].depth == 2
    assert [str(opset) in note and "newer" in note for note in found.notes] == [True] * (opset > NEWEST_OPSET)


def test_an_opset_without_quantization(path):
    with pytest.raises(InputError, match=rf"model.onnx: opset: found \[9\], expected .* at least {OLDEST_OPSET}"):
        audited(path, layer_model("Conv", np.full((2, 2, 1, 1), 100, np.int8), (1, 2, 3, 3), opset=9))


# ---- models with other things in them


def block(x, y, prefix=""):
    """A quantized 1x1 convolution of 4 channels from a float tensor to a float tensor."""
    p = prefix or y
    constants = {f"{p}s": F32(0.1), f"{p}z": np.uint8(0), f"{p}w": RNG.integers(-90, 91, (4, 4, 1, 1)).astype(np.int8)}
    nodes = [
        node("QuantizeLinear", [x, f"{p}s", f"{p}z"], f"{p}q"),
        node("DequantizeLinear", [f"{p}q", f"{p}s", f"{p}z"], f"{p}d"),
        node("DequantizeLinear", [f"{p}w", f"{p}s"], f"{p}wd"),
        node("Conv", [f"{p}d", f"{p}wd"], f"{p}.conv"),
        node("QuantizeLinear", [f"{p}.conv", f"{p}s", f"{p}z"], f"{p}yq"),
        node("DequantizeLinear", [f"{p}yq", f"{p}s", f"{p}z"], y),
    ]
    return nodes, constants


UNKNOWN = {
    "Softmax": {}, "HardSwish": {}, "Sigmoid": {}, "LeakyRelu": {}, "HardSigmoid": {}, "Elu": {}, "Erf": {}, "Exp": {},
    "Transpose": {"perm": [0, 1, 3, 2]}, "DepthToSpace": {"blocksize": 1}, "InstanceNormalization": {},
    "LpNormalization": {}, "custom.Nothing": {},
}  # fmt: skip


@pytest.mark.parametrize("op", UNKNOWN)
def test_operators_that_are_unknown_do_not_matter(path, op):
    (before, one), (behind, two) = block("x", "a"), block("b", "y", prefix="second")
    constants = one | two | {"g": np.ones(4, F32)}
    inputs = ["a", "g", "g"] if op == "InstanceNormalization" else ["a"]
    nodes = [*before, node(op, inputs, "b", **UNKNOWN[op]), *behind]
    found = audited(path, assemble(nodes, constants, (1, 4, 5, 5)))
    assert [row.name for row in found.layers] == ["a.conv", "second.conv"] and not found.passed_over


def test_layers_that_are_float_are_passed_over(path):
    nodes, constants = block("m", "a")
    constants |= {"w": RNG.normal(size=(5, 5)).astype(F32), "b": np.zeros(5, F32), "first": np.ones((4, 4, 1, 1), F32),
                  "one": np.ones(4, F32), "zero": np.zeros(4, F32)}  # fmt: skip
    nodes = [
        node("Conv", ["x", "first"], "f"), node("BatchNormalization", ["f", "one", "zero", "zero", "one"], "m"),
        *nodes, node("MatMul", ["a", "w"], "p"), node("Add", ["p", "b"], "t"), node("Softmax", ["t"], "y"),
    ]  # fmt: skip
    found = audited(path, assemble(nodes, constants, (1, 4, 5, 5)))
    assert [row.name for row in found.layers] == ["a.conv"] and found.total == 3
    assert [(each.name, each.op) for each in found.passed_over] == [("f", "Conv"), ("p", "MatMul")]
    assert [each.reason for each in found.passed_over] == ["its activation is float", "its weights are float"]


def test_a_product_of_two_activations_is_passed_over(path):
    nodes, constants = block("x", "a")
    nodes += [node("MatMul", ["a", "a"], "attention"), node("Identity", ["attention"], "y")]
    found = audited(path, assemble(nodes, constants, (1, 4, 5, 5)))
    assert [(each.name, each.reason) for each in found.passed_over] == [("attention", "both operands are activations")]


def test_sub_graphs_and_functions_are_not_read(path):
    nodes, constants = block("x", "a")
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "a"], ["inner"], name="hidden")], "body", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes.append(helper.make_node("If", ["yes"], ["y"], name="choice", then_branch=body, else_branch=body))
    model = assemble(nodes, constants | {"yes": np.array(True)}, (1, 4, 5, 5))
    function = helper.make_function(
        "local", "Block", ["u"], ["v"], [helper.make_node("Gemm", ["u", "u"], ["v"])], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    found = audited(path, model)
    assert len(found.layers) == 1 and [each.op for each in found.passed_over] == ["Gemm", "MatMul", "MatMul"]
    reasons = [each.reason for each in found.passed_over]
    assert "function 'Block'" in reasons[0] and "sub-graph of node 'choice' (If)" in reasons[1]


def test_several_inputs_of_other_kinds(path):
    """Tokens, a mask, sequences of vectors; codes as an input of the model."""
    constants = {"s": F32(0.1), "z": np.int8(3), "w": np.full((8, 6), 30, np.int8), "table": np.zeros((9, 8), F32)}
    nodes = [
        node("Gather", ["table", "tokens"], "e"), node("QuantizeLinear", ["e", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"), node("DequantizeLinear", ["w", "s"], "wd"),
        node("MatMul", ["d", "wd"], "dense"), node("MatMulInteger", ["codes", "w"], "raw"),
        node("Cast", ["raw"], "y", to=1),
    ]  # fmt: skip
    model = assemble(nodes, constants, (1, 7), x_type=TensorProto.BOOL)
    model.graph.input.append(helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", 7]))
    model.graph.input.append(helper.make_tensor_value_info("codes", TensorProto.UINT8, ["N", 7, 8]))
    found = audited(path, model)
    assert [(row.name, row.depth, row.q_max) for row in found.layers] == [("dense", 8, 255), ("raw", 8, 255)]
    assert found.layers[0].worst_case == pytest.approx(8 * 30 * 131 / 32768)
    assert found.layers[1].worst_case == pytest.approx(8 * 30 * 255 / 32767)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"x_zero": np.int32(0)}, "found codes of type INT32, expected UINT8, INT8, UINT16, INT16, UINT4, INT4"),
        ({"x_scale": np.ones(4, F32)}, "constant 'xs': found 4 values, expected one"),
        ({"w_scale": np.ones(4, F32), "axis": 0}, "several scales within one sum of products"),
        ({"w_scale": np.ones(5, F32)}, "'ws': found [5] values for weights of the shape [4, 3]"),
        ({"weight": np.ones((4, 3), np.int32)}, "found codes of type INT32"),
        ({"weight": np.ones((0, 3), np.int8)}, "found weights of the shape [0, 3]"),
    ],
)
def test_reasons(path, changes, reason):
    fields = {"weight": np.full((4, 3), 9, np.int8), "shape": (1, 4), "axis": 1} | changes
    (passed,) = audited(path, layer_model("MatMul", **fields)).passed_over
    assert reason in passed.reason


def test_weights_in_blocks_are_no_layer(path):
    model = layer_model("MatMul", np.full((4, 3), 9, np.int8), (1, 4), w_scale=np.ones((2, 3), F32),
                        w_zero=np.zeros((2, 3), np.int8), axis=0)  # fmt: skip
    next(n for n in model.graph.node if n.output[0] == "w_real").attribute.append(
        helper.make_attribute("block_size", 2)
    )
    (passed,) = audited(path, model).passed_over
    assert "quantized in blocks" in passed.reason


# ---- not statically quantized


def test_a_float_model(path):
    with pytest.raises(InputError, match=r"model.onnx: this is not a statically quantized model.*quantize_static"):
        audited(path, float_network())


def test_a_dynamically_quantized_model(tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(float_network(), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "dynamic.onnx")
    message = r"not a statically quantized model.*DynamicQuantizeLinear.*quantize_static"
    with pytest.raises(InputError, match=message):
        audit_onnx(tmp_path / "dynamic.onnx")


def test_weights_alone_quantized(path):
    constants = {"w": np.ones((4, 3), np.int8), "s": F32(1)}
    nodes = [node("DequantizeLinear", ["w", "s"], "wd"), node("MatMul", ["x", "wd"], "y")]
    with pytest.raises(InputError, match="not a statically quantized model.*its activation is float"):
        audited(path, assemble(nodes, constants, (1, 4)))


def test_a_model_without_layers(path):
    with pytest.raises(InputError, match="found no Conv, ConvTranspose, Gemm or MatMul"):
        audited(path, assemble([node("Relu", ["x"], "y")], {}, (1, 4)))


def test_external_data(tmp_path):
    model = layer_model("Conv", RNG.integers(-128, 128, (8, 8, 3, 3)).astype(np.int8), (1, 8, 5, 5))
    expected = row_of(tmp_path / "whole.onnx", model)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert audit_onnx(path).layers == (expected,)
    (tmp_path / "weights.bin").unlink()
    (passed,) = audit_onnx(path).passed_over
    assert "'weights.bin'" in passed.reason


def test_data_types_have_names(path):
    model = layer_model("MatMul", np.ones((4, 3), np.int8), (1, 4), axis=1)
    model.graph.initializer[2].data_type = TensorProto.STRING
    (passed,) = audited(path, model).passed_over
    assert "found data type STRING, expected UINT8, INT8, UINT16" in passed.reason


def test_damaged_files(path):
    """Bytes and fields changed at random: rows, or one message that names the file, never anything else."""
    random = np.random.default_rng(0)
    weight = RNG.integers(-128, 128, (4, 2, 3, 3)).astype(np.int8)
    whole = [
        layer_model("Conv", weight, (1, 4, 5, 5), group=2, bounds=(3, 200)),
        layer_model("ConvTranspose", weight, (1, 4, 5, 5), strides=[2, 2]),
        layer_model("QLinearConv", weight, (1, 2, 5, 5), w_scale=np.ones(4, F32)),
        layer_model("Gemm", weight.reshape(4, 18), (1, 18), transB=1),
    ]
    answered = 0
    for at in range(400):
        model = onnx.ModelProto()
        model.CopyFrom(whole[at % 4])
        tensor = model.graph.initializer[random.integers(len(model.graph.initializer))]
        changed = model.graph.node[random.integers(len(model.graph.node))]
        kind = random.integers(4)
        if kind == 0:
            tensor.data_type = int(random.integers(30))
        elif kind == 1:
            tensor.dims[:] = [[], [0], [3], [-1], [1 << 40], [1] * 9][random.integers(6)]
        elif kind == 2:
            changed.op_type = ["Clip", "Reshape", "Cast", "MatMulInteger", "Concat", "Split"][random.integers(6)]
        content = bytearray(model.SerializeToString())
        for place in random.integers(len(content), size=3) if kind == 3 else ():
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            answered += audit_onnx(path).total > 0
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
    assert 100 < answered < 400


# ---- generators


def test_the_operator_format_of_onnxruntime(tmp_path):
    from onnxruntime.quantization import QuantFormat, QuantType

    for types in ({}, {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}):
        folder = tmp_path / str(len(types))
        folder.mkdir()
        path = quantized_network(folder, quant_format=QuantFormat.QOperator, **types)
        assert any(each.op_type == "QLinearConv" for each in onnx.load(path).graph.node)
        found = audit_onnx(path)
        assert found.total == len(found.layers) == 5
        assert sorted(row.kind for row in found.layers) == ["conv", "conv", "conv", "depthwise", "linear"]


def test_other_options_of_onnxruntime(tmp_path):
    from onnxruntime.quantization import QuantType

    types = {
        "activation_type": (QuantType.QInt16, QuantType.QUInt8),
        "weight_type": (QuantType.QUInt8, QuantType.QInt4),
    }
    for at, (name, values) in enumerate(types.items()):
        for value in values:
            folder = tmp_path / f"{at}{value}"
            folder.mkdir()
            options = {"activation_type": QuantType.QUInt8} | {name: value}
            found = audit_onnx(quantized_network(folder, **options))
            assert found.total == len(found.layers) == 5
            if value == QuantType.QInt16:
                assert found.layers[0].q_max == 65535 and found.layers[0].narrowest == NAMED["int32"]
            if value == QuantType.QInt4:
                assert found.layers[0].worst_case <= 1 and found.layers[0].pairs == "exact"


@pytest.mark.slow
def test_brevitas(tmp_path):
    pytest.importorskip("onnxoptimizer", reason="brevitas needs it for its export")
    import torch

    qnn = pytest.importorskip("brevitas.nn")
    from brevitas.export import export_onnx_qcdq

    torch.manual_seed(0)
    for bits in (8, 4):
        fields = {"weight_bit_width": bits, "return_quant_tensor": True}
        network = torch.nn.Sequential(
            qnn.QuantIdentity(bit_width=bits, return_quant_tensor=True), qnn.QuantConv2d(3, 8, 3, **fields),
            qnn.QuantReLU(bit_width=bits, return_quant_tensor=True), qnn.QuantConv2d(8, 8, 3, groups=8, **fields),
            qnn.QuantReLU(bit_width=bits, return_quant_tensor=True), torch.nn.Flatten(),
            qnn.QuantLinear(128, 5, bias=True, weight_bit_width=bits),
        ).eval()  # fmt: skip
        image, path = torch.randn(1, 3, 8, 8), tmp_path / f"{bits}.onnx"
        network(image)
        export_onnx_qcdq(network, args=image, export_path=str(path), dynamo=False, opset_version=13)
        found = audit_onnx(path)
        assert [row.kind for row in found.layers] == ["conv", "depthwise", "linear"] and not found.passed_over
        assert {row.q_max for row in found.layers} == {2**bits - 1}
        weights = network[1].quant_weight().int(float_datatype=False).numpy().reshape(8, -1).astype(int)
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        worst = max(
            max(sum(max(low * w, high * w) for w in row) / 32767, sum(min(low * w, high * w) for w in row) / -32768)
            for row in weights.tolist()
        )
        assert found.layers[0].worst_case == pytest.approx(worst)


@pytest.mark.slow
def test_mobilenetv3_with_hardswish_and_squeeze_and_excitation(tmp_path):
    import timm
    import torch
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(F32)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    network = torch.nn.Sequential(network, torch.nn.Softmax(dim=1))
    source, path = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(network, (torch.randn(1, 3, 64, 64),), source, dynamo=False, opset_version=13, **names)
    ops = {each.op_type for each in onnx.load(source).graph.node}
    assert {"HardSwish", "HardSigmoid"} & ops and "Softmax" in ops
    stem = next(each.name for each in onnx.load(source).graph.node if each.op_type == "Conv")
    quantize_static(source, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_exclude=[stem])
    found = audit_onnx(path)
    assert (len(found.layers), found.total) == (53, 54)
    assert [(each.name, each.op) for each in found.passed_over] == [(stem, "Conv")]
