"""Operators of foreign models: each as ONNX Runtime computes it, and the engine as the reference."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import QuantType
from oracles.onnx_models import model, node, qcdq_network, quantized_network, small_qdq

from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.onnx.exporter import build_model, export_onnx
from oaq_repro.integer.onnx.importer import import_onnx
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

F32 = np.float32
IMAGES = (np.random.default_rng(3).normal(size=(4, 3, 16, 16)) * 1.5).astype(F32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def imported(path, content: onnx.ModelProto) -> ir.Graph:
    onnx.save(content, path)
    return import_onnx(path)


def assert_as_onnxruntime(path, content: onnx.ModelProto, images=IMAGES, near=0.0) -> ir.Graph:
    """Equal to the last bit, or one code off in a share `near` of the places; every mode of the engine, and the export
    read again, as the reference."""
    graph = imported(path, content)
    found = Reference(graph).run(images).outputs
    for name, a, b in zip(graph.outputs, found, run_onnx(path, images), strict=True):
        assert len(np.unique(b)) > 3 and a.shape == b.shape
        off = np.abs(np.rint((a - b) / graph.qparams(graph.node(name).inputs[0]).scale))
        assert off.max() <= (near > 0) and (off > 0).mean() <= near
    for mode in MODES:
        for a, b in zip(Engine(graph, images.shape[1:], mode=mode).run(images), found, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(run_onnx(build_model(graph, images.shape[1:]), images), found, strict=True):
        np.testing.assert_array_equal(a, b)
    return graph


def after_conv(*nodes, **constants) -> onnx.ModelProto:
    """`small_qdq`, whose value goes through nodes from "y" to "p"; an output after another QuantizeLinear."""
    first, known = small_qdq(so=F32(0.25), zo=np.uint8(90))
    ends = [node("QuantizeLinear", ["p", "sp", "zo"], "pq"), node("DequantizeLinear", ["pq", "sp", "zo"], "out")]
    return model([*first, *nodes, *ends], known | {"sp": F32(0.25)} | constants, ("N", 3, 16, 16), ("out",), opset=19)


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 4])
def test_quantize_clip_dequantize(path, bits):
    """The form of brevitas: weights of int8 through a Clip, and codes of few bits as a Clip of codes."""
    graph = assert_as_onnxruntime(path, qcdq_network(bits))
    assert [n.output.q_max for n in graph.nodes[:2]] == [2**bits - 1, 2**bits - 1]
    assert np.abs(graph.layers()[0].weight.astype(int)).max() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("zero_point", [63, 127, 128, 130])
def test_uint8_weights_around_any_zero_point(path, zero_point):
    codes = np.random.default_rng(1).integers(-60, 61, (4, 3, 3, 3)) + zero_point
    nodes, constants = small_qdq(weight=codes.astype(np.uint8), wz=np.uint8(zero_point))
    graph = assert_as_onnxruntime(path, model(nodes, constants))
    np.testing.assert_array_equal(graph.layers()[0].weight, codes - zero_point)


def test_zero_points_of_weights_per_channel(path):
    points = np.array([120, 128, 131, 140])
    codes = np.random.default_rng(1).integers(-100, 101, (4, 3, 3, 3)) + points.reshape(-1, 1, 1, 1)
    nodes, constants = small_qdq(
        weight=codes.astype(np.uint8), weight_scale=np.full(4, 0.02, F32), wz=points.astype(np.uint8)
    )
    assert_as_onnxruntime(path, model(nodes, constants))


def test_zero_points_that_int8_cannot_hold(path):
    codes = np.arange(108, dtype=np.uint8).reshape(4, 3, 3, 3) + np.uint8(148)
    with pytest.raises(InputError, match="zero points of 120 and, less these, values from 28 to 135; expected -128"):
        imported(path, model(*small_qdq(weight=codes, wz=np.uint8(120))))


def test_transposed_weights(path):
    """Transpose of codes, and of dequantized constants with a scale per channel."""
    rng = np.random.default_rng(2)
    weight = rng.integers(-127, 128, (5, 12)).astype(np.int8)
    constants = {
        "s": F32(0.03), "z": np.uint8(100), "w": weight, "ws": rng.uniform(0.01, 0.02, 5).astype(F32),
        "wz": np.zeros(5, np.int8), "so": F32(0.15), "zo": np.uint8(120),
    }  # fmt: skip
    start = [
        node("QuantizeLinear", ["x", "s", "z"], "xq"), node("DequantizeLinear", ["xq", "s", "z"], "xd"),
        node("Flatten", ["xd"], "f", axis=-3), node("QuantizeLinear", ["f", "s", "z"], "fq"),
        node("DequantizeLinear", ["fq", "s", "z"], "fd"),
    ]  # fmt: skip
    before = [node("Transpose", ["w"], "wt", perm=[1, 0]), node("DequantizeLinear", ["wt", "ws", "wz"], "wd", axis=-1)]
    after = [node("DequantizeLinear", ["w", "ws", "wz"], "wt", axis=0), node("Transpose", ["wt"], "wd")]
    end = [
        node("MatMul", ["fd", "wd"], "c"), node("QuantizeLinear", ["c", "so", "zo"], "q"),
        node("DequantizeLinear", ["q", "so", "zo"], "y"),
    ]  # fmt: skip
    images = (rng.normal(size=(9, 3, 2, 2)) * 2).astype(F32)
    for part in (before, after):
        graph = assert_as_onnxruntime(path, model([*start, *part, *end], constants, ("N", 3, 2, 2)), images)
        np.testing.assert_array_equal(graph.layers()[0].weight, weight)


def test_constants_that_are_added_to_layers_are_their_bias(path):
    """ONNX Runtime leaves that Conv in float; no sum of this one is near a tie."""
    rng = np.random.default_rng(5)
    for shape, kind in (((1, 4, 1, 1), "float"), ((4, 1, 1), "codes")):
        nodes, constants = small_qdq(b=None, bs=None, so=F32(0.2137))
        del nodes[3]
        nodes[3].input.pop()
        nodes[3].output[0] = "raw"
        constants["k"] = rng.integers(-30, 30, shape).astype(np.int8)
        constants["ks"], constants["kz"] = F32(0.06), np.int8(3)
        if kind == "float":
            constants["kd"] = (constants.pop("k") - 3).astype(F32) * F32(0.06)
        else:
            nodes.append(node("DequantizeLinear", ["k", "ks", "kz"], "kd"))
        nodes = [*nodes[:4], *nodes[6:], node("Add", ["raw", "kd"], "c"), *nodes[4:6]]
        graph = assert_as_onnxruntime(path, model(nodes, constants), near=0.001)
        assert graph.layers()[0].bias.any() and len(graph.nodes) == 3


def test_a_constant_along_the_width_is_no_bias(path):
    nodes, constants = small_qdq(k=np.zeros(4, np.int32), b=None, bs=None)
    nodes[3] = node("DequantizeLinear", ["k", "s"], "bd")
    nodes[4] = node("Conv", ["xd", "wd"], "raw")
    nodes.insert(5, node("Add", ["raw", "bd"], "c"))
    with pytest.raises(InputError, match="bias 'bd': expected 4 constants"):
        imported(path, model(nodes, constants))


def test_a_constant_operand_is_named(path):
    content = after_conv(node("Add", ["y", "k"], "p"), k=np.ones((1, 4, 1, 1), F32))
    with pytest.raises(InputError, match=r"p\.Add.*input 'k': found a constant operand"):
        imported(path, content)


def test_a_bias_behind_a_relu_is_no_bias(path):
    nodes, constants = small_qdq(b=None, bs=None, k=np.ones((1, 4, 1, 1), F32))
    del nodes[3]
    nodes[3].input.pop()
    nodes[3].output[0] = "raw"
    nodes[4:4] = [node("Relu", ["raw"], "r"), node("Add", ["r", "k"], "c")]
    with pytest.raises(InputError, match="c.Conv.*not quantized"):
        imported(path, model(nodes, constants))


# --- QOperator form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [(QuantType.QUInt8, QuantType.QInt8), (QuantType.QUInt8, QuantType.QUInt8)])
def test_qoperator_model(tmp_path, types):
    """The network of the QDQ tests, as operators on codes; fused Add and pools round ties otherwise."""
    path = quantized_network(
        tmp_path, operators=True, activation_type=types[0], weight_type=types[1], reduce_range=types[1] == types[0]
    )
    operators = {n.op_type for n in onnx.load(path).graph.node}
    assert {"QLinearConv", "QLinearAdd", "QGemm", "QLinearConcat", "QLinearGlobalAveragePool"} < operators
    graph = import_onnx(path)
    found, expected = Reference(graph).run(IMAGES).outputs, run_onnx(path, IMAGES)
    for name, a, b in zip(graph.outputs, found, expected, strict=True):
        codes = np.abs(np.rint((a - b) / graph.qparams(graph.node(name).inputs[0]).scale))
        assert codes.max() <= 1 and (codes > 0).sum() <= max(2, 0.02 * codes.size) and len(np.unique(b)) > 10


def qlinear(*nodes, opset=13, **constants) -> onnx.ModelProto:
    """Image -> codes "q" of [N, 4, 16, 16] by a QLinearConv -> nodes -> codes "p" -> "out"."""
    rng = np.random.default_rng(0)
    known = {
        "s": F32(0.03), "z": np.uint8(3), "so": F32(0.2), "zo": np.uint8(120),
        "ws": rng.uniform(0.01, 0.03, 4).astype(F32), "wz": np.zeros(4, np.int8),
        "w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "b": rng.integers(-3000, 3000, 4).astype(np.int32), "sp": F32(0.25), "zp": np.uint8(110),
    }  # fmt: skip
    conv = node("QLinearConv", ["x.q", "s", "z", "w", "ws", "wz", "so", "zo", "b"], "q", pads=[1] * 4)
    start = [node("QuantizeLinear", ["x", "s", "z"], "x.q"), conv]
    end = node("DequantizeLinear", ["p", "sp", "zp"], "out")
    content = model([*start, *nodes, end], known | constants, outputs=("out",), opset=opset)
    content.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return content


def microsoft(op, inputs, output, **attributes):
    made = node(op, inputs, output, **attributes)
    made.domain = "com.microsoft"
    return made


QUARTER, EIGHTH = F32(0.25), F32(0.125)  # with these scales nothing is rounded but the result
QLINEAR = {
    "conv": ([node("QLinearConv", ["q", "so", "zo", "v", "vs", "vz", "sp", "zp"], "p", group=4)],
             {"vs": F32(0.02), "vz": np.int8(0), "v": np.array([3, -4, 5, 120], np.int8).reshape(4, 1, 1, 1)}),
    "add": ([microsoft("QLinearAdd", ["q", "so", "zo", "q", "so", "zo", "sp", "zp"], "p")], {"so": QUARTER}),
    "concat": ([microsoft("QLinearConcat", ["sp", "zp", "q", "so", "zo", "q", "so", "zo"], "p", axis=-3)], {}),
    "global": ([microsoft("QLinearGlobalAveragePool", ["q", "so", "zo", "sp", "zp"], "p")],
               {"so": QUARTER, "sp": F32(1 / 64)}),
    "average": ([microsoft("QLinearAveragePool", ["q", "so", "zo", "sp", "zp"], "p", kernel_shape=[2, 2],
                           strides=[2, 2])], {"so": QUARTER, "sp": EIGHTH}),
    "padded": ([microsoft("QLinearAveragePool", ["q", "so", "zo", "sp", "zp"], "p", kernel_shape=[2, 2],
                          pads=[1] * 4)], {"so": QUARTER, "sp": EIGHTH}),
    "multiply": ([microsoft("QLinearMul", ["q", "so", "zo", "q", "so", "zo", "sp", "zp"], "p")], {"so": QUARTER}),
    "gate": ([microsoft("QLinearGlobalAveragePool", ["q", "so", "zo", "sg", "zp"], "g"),
              microsoft("QLinearMul", ["g", "sg", "zp", "q", "so", "zo", "sp", "zp"], "p")],
             {"so": QUARTER, "sg": F32(1 / 64)}),
    "sigmoid": ([microsoft("QLinearSigmoid", ["q", "so", "zo", "su", "zu"], "u"),
                 microsoft("QLinearMul", ["u", "su", "zu", "q", "so", "zo", "sp", "zp"], "p")],
                {"su": F32(1 / 256), "zu": np.uint8(0), "so": QUARTER}),
    "leaky": ([microsoft("QLinearLeakyRelu", ["q", "so", "zo", "sp", "zp"], "p", alpha=0.125)], {"so": QUARTER}),
    "again": ([microsoft("DequantizeLinear", ["q", "so", "zo"], "d"),
               microsoft("QuantizeLinear", ["d", "sp", "zp"], "p")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", QLINEAR)
def test_operators_on_codes(path, name):
    nodes, constants = QLINEAR[name]
    assert_as_onnxruntime(path, qlinear(*nodes, **constants))


@pytest.mark.parametrize("form", ["QGemm", "QGemm transposed", "QLinearMatMul"])
def test_matrix_products_on_codes(path, form):
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (6, 4)).astype(np.int8)
    transposed = form.endswith("transposed")
    pool = microsoft("QLinearGlobalAveragePool", ["q", "so", "zo", "sg", "zp"], "g")
    constants = {
        "v": weight if transposed else np.ascontiguousarray(weight.T), "vs": rng.uniform(0.01, 0.02, 6).astype(F32),
        "vz": np.zeros(6, np.int8), "c": rng.integers(-900, 900, 6).astype(np.int32), "so": QUARTER, "sg": F32(1 / 64),
    }  # fmt: skip
    inputs = ["f", "sg", "zp", "v", "vs", "vz"]
    if form == "QLinearMatMul":
        product = node("QLinearMatMul", [*inputs, "sp", "zp"], "p")
    else:
        product = microsoft("QGemm", [*inputs, "c", "sp", "zp"], "p", transB=int(transposed))
    content = qlinear(
        pool,
        node("Flatten", ["g"], "f", axis=-3),
        product,
        **constants,
    )
    graph = assert_as_onnxruntime(
        path, content, np.tile(IMAGES, (8, 1, 1, 1)) * np.linspace(0.2, 2, 32).astype(F32).reshape(-1, 1, 1, 1)
    )
    np.testing.assert_array_equal(graph.layers()[1].weight, weight)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda n: n.attribute.append(helper.make_attribute("channels_last", 1)), "QLinearGlobal.*channels_last"),
        (lambda n: n.attribute.append(helper.make_attribute("odd", 1)), "odd: found a value that is not supported"),
        (lambda n: n.input.append("zo"), "'zo': found an input number 6"),
        (lambda n: n.input.pop(), "no scale or zero point of the result"),
        (lambda n: n.input.__setitem__(0, "w"), "g.QLinearGlobalAveragePool.*zero point 'zo'"),
    ],
)  # fmt: skip
def test_operators_on_codes_that_are_not_supported(path, change, message):
    pool = microsoft("QLinearGlobalAveragePool", ["q", "so", "zo", "sp", "zp"], "p")
    pool.name = "g.QLinearGlobalAveragePool"
    change(pool)
    with pytest.raises(InputError, match=message):
        imported(path, qlinear(pool))


# --- functions, products, selections ---------------------------------------------------------------------------------

NUMBERS = {
    "three": F32(3), "six": F32(6), "none": F32(0), "half": F32(0.5), "one": F32(1),
    "slope": np.full((1, 1, 1), 0.2, F32), "root": F32(2**0.5), "two": F32(2),
    "threes": np.int8(3), "s3": F32(1), "z3": np.int8(0),
}  # fmt: skip
FUNCTIONS = {
    "hardswish": [node("HardSwish", ["y"], "p")],
    "hardswish in steps": [node("Add", ["y", "three"], "aa"), node("Clip", ["aa", "none", "six"], "bb"),
                           node("Mul", ["y", "bb"], "cc"), node("Div", ["cc", "six"], "p")],
    "hardswish of hardsigmoid": [node("HardSigmoid", ["y"], "aa", alpha=1 / 6), node("Mul", ["y", "aa"], "p")],
    "constants of codes": [node("DequantizeLinear", ["threes", "s3", "z3"], "cc"), node("Add", ["cc", "y"], "p")],
    "silu": [node("Sigmoid", ["y"], "aa"), node("Mul", ["aa", "y"], "p")],
    "relu times sigmoid": [node("Relu", ["y"], "r"), node("Sigmoid", ["r"], "aa"), node("Mul", ["aa", "r"], "p")],
    "gelu": [node("Div", ["y", "root"], "aa"), node("Erf", ["aa"], "bb"), node("Add", ["bb", "one"], "cc"),
             node("Mul", ["y", "cc"], "dd"), node("Mul", ["dd", "half"], "p")],
    "relu of tanh": [node("Tanh", ["y"], "aa"), node("Relu", ["aa"], "p")],
    "leaky": [node("LeakyRelu", ["y"], "p", alpha=0.1)],
    "prelu": [node("PRelu", ["y", "slope"], "p")],
    "elu": [node("Elu", ["y"], "p")],
    "minus": [node("Sub", ["three", "y"], "p")],
    "square": [node("Pow", ["y", "two"], "p")],
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float_functions_of_one_tensor_are_a_table(path, name):
    content = after_conv(*FUNCTIONS[name], **NUMBERS, sp=F32(0.2137))
    graph = assert_as_onnxruntime(path, content, near=0.01)
    assert [type(n) for n in graph.nodes[1:3]] == [ir.Conv, ir.Elementwise] and len(graph.nodes) == 4


def test_a_function_that_is_moved_before_its_codes_are_made(path):
    """As quantize_static leaves HardSwish before Flatten; parts of a function, and it shuffled."""
    parts = node("Split", ["h"], "h1", axis=1, num_outputs=2)
    parts.output.append("h2")
    pool = [node("GlobalAveragePool", ["y"], "g"), node("QuantizeLinear", ["g", "sp", "zo"], "gq"),
            node("DequantizeLinear", ["gq", "sp", "zo"], "gd")]  # fmt: skip
    for nodes in (
        [*pool, node("HardSwish", ["gd"], "h"), node("Flatten", ["h"], "p")],
        [node("HardSwish", ["y"], "h"), parts, node("Mul", ["h2", "h2"], "p")],
    ):
        graph = assert_as_onnxruntime(
            path, after_conv(*nodes, sp=F32(0.2137)), np.tile(IMAGES, (4, 1, 1, 1)), near=0.01
        )
        kinds = [type(n) for n in graph.nodes]
        assert kinds[-2] is ir.Elementwise and kinds[-3] in (ir.Flatten, ir.Select)


def test_where_a_function_is_undefined_it_is_zero(path):
    graph = imported(path, after_conv(node("Log", ["y"], "p")))
    table, zero = graph.nodes[2].table, graph.qparams(graph.nodes[1].name).zero_point
    assert (table[:zero] == 90).all() and table[zero] == 0 and len(set(table[zero:].tolist())) > 10


def test_fewer_codes_of_a_function(path):
    """A Clip of its codes changes the table."""
    nodes, constants = small_qdq(so=F32(0.25), zo=np.uint8(90))
    nodes += [node("HardSwish", ["y"], "h"), node("QuantizeLinear", ["h", "sp", "zp"], "hq"),
              node("Clip", ["hq", "least", "most"], "hc"),
              node("DequantizeLinear", ["hc", "sp", "zp"], "p")]  # fmt: skip
    constants |= {"sp": F32(0.2137), "zp": np.uint8(9), "least": np.uint8(4), "most": np.uint8(80)}
    graph = assert_as_onnxruntime(path, model(nodes, constants, outputs=("p",), opset=14), near=0.01)
    assert graph.qparams(graph.nodes[2].name) == ir.QParams(F32(0.2137), 5, 76)


@pytest.mark.parametrize(
    "nodes, message",
    [
        (
            [node("HardSwish", ["y"], "h"), node("MaxPool", ["h"], "p", kernel_shape=[2, 2])],
            "h.HardSwish.*not quantized",
        ),
        ([node("MaxPool", ["y"], "m", kernel_shape=[1, 1]), node("Sub", ["y", "m"], "p")], "p.Sub.*two tensors"),
        ([node("PRelu", ["y", "slopes"], "p")], "input 'slopes': .*of one element"),
        ([node("Sigmoid", ["three"], "p")], "input 'three': .*quantized value"),
        ([node("Mul", ["y", "nothing"], "p")], "input 'nothing'"),
        (
            [node("AveragePool", ["y"], "aa", kernel_shape=[2, 2]), node("Tanh", ["aa"], "p")],
            "a.AveragePool.*not quantized",
        ),
    ],
)
def test_functions_that_are_no_table(path, nodes, message):
    with pytest.raises(InputError, match=message):
        imported(path, after_conv(*nodes, **NUMBERS, slopes=np.full((4, 1, 1), 0.2, F32)))


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_products(path, gate, swapped):
    """At a scale without ties; ONNX Runtime fuses the product into QLinearMul."""
    first = [
        node("GlobalAveragePool" if gate else "HardSwish", ["y"], "h"), node("QuantizeLinear", ["h", "sh", "zo"], "hq"),
        node("DequantizeLinear", ["hq", "sh", "zo"], "bb"),
    ]  # fmt: skip
    product = node("Mul", ["bb", "y"] if swapped else ["y", "bb"], "p")
    graph = assert_as_onnxruntime(path, after_conv(*first, product, sh=F32(0.0173 if gate else 0.19), sp=F32(0.3171)))
    assert isinstance(graph.nodes[3], ir.Multiply)


INDICES = {name: np.array(value) for name, value in {
    "three": [3], "one": [1], "two": [2], "minus": [-1], "huge": [2**62], "tiny": [-(2**62)], "sizes": [1, 3],
    "order": [2, 0, 3, 1, -1], "axis": [1],
}.items()}  # fmt: skip


@pytest.mark.parametrize(
    "nodes, channels",
    [
        ([node("Slice", ["y", "one", "huge", "axis"], "p")], [1, 2, 3]),
        ([node("Slice", ["y", "one", "minus", "axis", "one"], "p")], [1, 2]),
        ([node("Slice", ["y", "huge", "tiny", "axis", "minus"], "p")], [3, 2, 1, 0]),
        ([node("Slice", ["y", "tiny", "two", "axis", "two"], "p")], [0]),
        ([node("Gather", ["y", "order"], "p", axis=-3)], [2, 0, 3, 1, 3]),
        ([node("Split", ["y", "sizes"], "p", axis=1)], None),
    ],
)
def test_selections_of_channels(path, nodes, channels):
    if channels is None:
        nodes[0].output.append("rest")
    graph = assert_as_onnxruntime(path, after_conv(*nodes, **INDICES))
    selected = next(n for n in graph.nodes if isinstance(n, ir.Select))
    assert selected.channels.tolist() == (channels or [0])


def test_halves_of_a_split(path):
    parts = node("Split", ["y"], "aa", axis=-3, num_outputs=2)
    parts.output.append("bb")
    graph = assert_as_onnxruntime(path, after_conv(parts, node("Concat", ["bb", "aa"], "p", axis=1)))
    assert [n.channels.tolist() for n in graph.nodes if isinstance(n, ir.Select)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "made, message",
    [
        (node("Gather", ["y", "order"], "p", axis=2), "axis: found 2"),
        (node("Gather", ["y", "q"], "p", axis=1), "constant integers"),
        (node("Slice", ["y", "one", "three", "two"], "p"), "axis: found 2"),
        (node("Slice", ["y", "three", "one", "axis"], "p"), "no channels"),
        (node("Split", ["y", "sizes"], "p", axis=1), r"split: found \[1, 3\] for 4 channels, expected 1 parts"),
    ],
)
def test_selections_that_are_not_supported(path, made, message):
    with pytest.raises(InputError, match=message):
        imported(path, after_conv(made, **INDICES))


# --- other shapes -------------------------------------------------------------------------------------------------

SHAPES = {
    "row": np.array([0, 4]), "column": np.array([0, -1, 1, 1]), "pixels": np.array([2, 3]), "ends": np.array([-1, -2]),
    "split": np.array([0, 2, 2, 16, 16]), "split -1": np.array([-1, 2, 2, 16, 16]), "whole": np.array([0, -1, 16, 16]),
    "one": np.array([1]), "turned": np.array([0, 4, 2, 128]), "batch": np.array([1, -1, 16, 16]),
}  # fmt: skip
POOL = node("GlobalAveragePool", ["y"], "g")
CODED = [node("QuantizeLinear", ["g", "sp", "zo"], "gq"), node("DequantizeLinear", ["gq", "sp", "zo"], "gd")]


@pytest.mark.parametrize("there", [node("Reshape", ["gd", "row"], "f"), node("Squeeze", ["gd", "pixels"], "f")])
@pytest.mark.parametrize("back", [node("Reshape", ["f", "column"], "u"), node("Unsqueeze", ["f", "ends"], "u")])
def test_rows_and_single_pixels(path, there, back):
    content = after_conv(POOL, *CODED, there, back, node("Reshape", ["u", "column"], "p"), **SHAPES)
    graph = assert_as_onnxruntime(path, content, np.tile(IMAGES, (8, 1, 1, 1)) * np.linspace(0.2, 2, 32).astype(F32)
                                  .reshape(-1, 1, 1, 1), near=0.05)  # fmt: skip
    assert [n.keepdims for n in graph.nodes if isinstance(n, ir.Flatten)] == [False, True]


@pytest.mark.parametrize("shape", ["split", "split -1"])
@pytest.mark.parametrize("swaps, channels", [(1, [0, 2, 1, 3]), (2, None), (0, None)])
def test_shuffles_of_channels(path, shape, swaps, channels):
    names = ["s0", *(f"s{i + 1}" for i in range(swaps))]
    turns = [node("Transpose", [a], b, perm=[0, 2, 1, 3, 4]) for a, b in zip(names, names[1:], strict=False)]
    nodes = [node("Reshape", ["y", shape], "s0"), *turns, node("Reshape", [names[-1], "whole"], "p")]
    graph = assert_as_onnxruntime(path, after_conv(*nodes, **SHAPES))
    assert [n.channels.tolist() for n in graph.nodes if isinstance(n, ir.Select)] == ([channels] if channels else [])


def test_codes_within_a_shuffle(path):
    """As quantize_static writes it: codes after every step."""
    nodes, value = [], "y"
    for op, inputs, name in (("Reshape", ["split"], "v0"), ("Transpose", [], "v1"), ("Reshape", ["whole"], "v2")):
        order = {"perm": [0, 2, 1, 3, 4]} if op == "Transpose" else {}
        nodes += [
            node(op, [value, *inputs], name, **order), node("QuantizeLinear", [name, "so", "zo"], f"{name}q"),
            node("DequantizeLinear", [f"{name}q", "so", "zo"], f"{name}d"),
        ]  # fmt: skip
        value = f"{name}d"
    graph = assert_as_onnxruntime(
        path, after_conv(*nodes, node("MaxPool", [value], "p", kernel_shape=[2, 2]), **SHAPES)
    )
    assert [n.channels.tolist() for n in graph.nodes if isinstance(n, ir.Select)] == [[0, 2, 1, 3]]


@pytest.mark.parametrize(
    "nodes, message",
    [
        ([node("Reshape", ["y", "split"], "p")], "output 'out'"),
        ([node("Reshape", ["y", "turned"], "p")], "shape: found"),
        ([node("Reshape", ["y", "batch"], "p")], "shape: found"),
        ([node("Squeeze", ["y", "pixels"], "p")], r"expected \[C, 1, 1\]"),
        ([node("Squeeze", ["y", "one"], "p")], "axes: found"),
        ([node("Unsqueeze", ["y", "pixels"], "p")], r"expected \[N, K\]"),
        ([node("Reshape", ["y", "split"], "a"), node("Transpose", ["a"], "p", perm=[0, 1, 2, 4, 3])], "not transposed"),
        ([node("Reshape", ["y", "split"], "a"), node("Reshape", ["a", "turned"], "p")], "channels were split"),
        ([node("Transpose", ["y"], "p", perm=[0, 2, 3, 1])], "not transposed"),
    ],
)
def test_other_shapes_are_not_supported(path, nodes, message):
    with pytest.raises(InputError, match=message):
        imported(path, after_conv(*nodes, **SHAPES))


# --- pools and resizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("stride", [1, 2])
def test_average_pools_with_padding(path, counted, stride):
    """At scales that are powers of two ONNX Runtime's float sums are exact."""
    pool = node("AveragePool", ["y"], "p", kernel_shape=[3, 4], pads=[1, 2, 1, 2], strides=[stride, 1],
                count_include_pad=counted)  # fmt: skip
    graph = assert_as_onnxruntime(path, after_conv(pool), near=0.02)
    assert graph.nodes[2].count_include_pad == bool(counted)
    pool = node("AveragePool", ["y"], "p", kernel_shape=[2, 2], pads=[1] * 4, strides=[stride] * 2,
                count_include_pad=counted)  # fmt: skip
    assert_as_onnxruntime(path, after_conv(pool))


MODES_OF_NEAREST = [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")]
SIZES = [(32, 32), (64, 16), (24, 40), (8, 4), (5, 7), (31, 17), (21, 16), (1, 1), (96, 3)]


@pytest.mark.parametrize("place, rounding", MODES_OF_NEAREST)
@pytest.mark.parametrize("by", ["sizes", "scales"])
def test_nearest_resizes(path, place, rounding, by):
    for height, width in SIZES:
        attributes = {"mode": "nearest", "coordinate_transformation_mode": place, "nearest_mode": rounding}
        if by == "sizes":
            constants, inputs = {"to": np.array([1, 4, height, width])}, ["y", "", "", "to"]
        else:
            constants = {"to": np.array([1, 1, height / 16, width / 16], F32), "roi": np.zeros(0, F32)}
            inputs = ["y", "roi", "to"]
        content = after_conv(node("Resize", inputs, "p", **attributes), **constants)
        graph = assert_as_onnxruntime(path, content, IMAGES[:1])
        assert Reference(graph).run(IMAGES[:1]).outputs[0].shape == (1, 4, height, width)


@pytest.mark.parametrize("axes, to", [([2, 3], [3, 0.5]), ([3, 2], [0.5, 3]), ([-1, 0, -2, 1], [0.5, 1, 3, 1])])
def test_axes_of_resizes(path, axes, to):
    """ONNX Runtime does not run all of these itself."""
    resize = node("Resize", ["y", "", "to"], "p", axes=axes)
    graph = imported(path, after_conv(resize, to=np.array(to, F32)))
    assert graph.nodes[2].factor == (3, 1, 1, 2)
    with pytest.raises(InputError, match="expected all four, or height and width"):
        imported(path, after_conv(node("Resize", ["y", "", "to"], "p", axes=[1, 3]), to=np.array([1, 2], F32)))


@pytest.mark.parametrize("place, rounding", MODES_OF_NEAREST)
def test_nearest_resizes_by_odd_scales(path, place, rounding):
    """The same pixels as ONNX Runtime, or an error that says why not."""
    taken = 0
    scales = np.random.default_rng(0).uniform(0.2, 3, 60).astype(F32).tolist() + [0.7, 1.1, 1 / 3, 5 / 3, 1.04]
    for scale, other in zip(scales, [*scales[7:], *scales[:7]], strict=True):
        resize = node("Resize", ["y", "", "to"], "p", mode="nearest", coordinate_transformation_mode=place,
                      nearest_mode=rounding)  # fmt: skip
        content = after_conv(resize, to=np.array([1, 1, scale, other], F32))
        try:
            assert_as_onnxruntime(path, content, IMAGES[:1])
            taken += 1
        except InputError as error:
            assert "no exact fractions" in str(error)
    assert taken > 3


def test_linear_resizes_of_codes_are_refused(path):
    resize = node("Resize", ["q", "", "to"], "r", mode="linear")
    with pytest.raises(InputError, match=r"r\.Resize.*linear on codes"):
        imported(path, after_conv(resize, node("DequantizeLinear", ["r", "so", "zo"], "p"), to=np.ones(4, F32)))


def test_nearest_pixels_are_those_of_torch():
    import torch

    from oaq_repro.resampling import nearest_pixels

    for before in range(1, 40):
        for factor in (1, 2, 3, 4, 7):
            places = torch.arange(before, dtype=torch.float32).reshape(1, 1, -1)
            expected = torch.nn.functional.interpolate(places, scale_factor=factor, mode="nearest")
            np.testing.assert_array_equal(nearest_pixels(before, factor, 1, "floor"), expected.reshape(-1).numpy())


def test_negative_axes(path):
    codes = node("Concat", ["y", "y"], "p", axis=-3)
    assert_as_onnxruntime(path, after_conv(codes))
    with pytest.raises(InputError, match="axis: found -1 for values of 4 dimensions"):
        imported(path, after_conv(node("Concat", ["y", "y"], "p", axis=-1)))
    with pytest.raises(InputError, match="axis: found 2 for a value of 4 dimensions"):
        imported(path, after_conv(node("Flatten", ["y"], "p", axis=2)))


def test_new_operators_in_files(path, tmp_path):
    """A graph with both is written and read, as a graph and as ONNX."""
    pool = node("AveragePool", ["y"], "a", kernel_shape=[3, 3], pads=[1] * 4)
    resize = node("Resize", ["e", "", "to"], "p", mode="nearest", nearest_mode="floor",
                  coordinate_transformation_mode="asymmetric")  # fmt: skip
    between = [node("QuantizeLinear", ["a", "sp", "zo"], "aq"), node("DequantizeLinear", ["aq", "sp", "zo"], "e")]
    graph = imported(path, after_conv(pool, *between, resize, to=np.array([1, 1, 2, 3], F32)))
    expected = Reference(graph).run(IMAGES).outputs[0]
    for again in (ir.Graph.load(graph.save(tmp_path / "g.npz")), import_onnx(export_onnx(graph, (3, 16, 16), path))):
        assert [type(n) for n in again.nodes] == [type(n) for n in graph.nodes]
        np.testing.assert_array_equal(Reference(again).run(IMAGES).outputs[0], expected)


# --- opsets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [11, 12, 13, 15, 17, 18, 19, 20, 21, 22, 23])
def test_every_opset(path, opset):
    nodes, constants = small_qdq(weight_scale=0.02)
    if opset < 13:
        for made in nodes:
            if made.op_type == "DequantizeLinear":
                del made.attribute[:]
        constants["bs"] = F32(0.0006)
    nodes += [node("MaxPool", ["y"], "m", kernel_shape=[2, 2], strides=[2, 2]), node("Dropout", ["m"], "d"),
              node("Relu", ["d"], "r"), node("QuantizeLinear", ["r", "so", "zo"], "rq"),
              node("DequantizeLinear", ["rq", "so", "zo"], "out")]  # fmt: skip
    assert_as_onnxruntime(path, model(nodes, constants, outputs=("out",), opset=opset))


# --- larger images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"strides": [2, 2]},
        {"strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2], "group": 2},
        {"dilations": [2, 1], "pads": [3, 1, 0, 0], "group": 4},
        {"strides": [1, 4], "auto_pad": "VALID", "kernel_shape": [3, 3]},
    ],
)
def test_transposed_convolutions(path, fields):
    """In float in ONNX Runtime: one code off at ties. Weights [I, O / groups, kh, kw] with scales per output."""
    rng = np.random.default_rng(4)
    outputs = 3
    bias = rng.normal(size=outputs * fields.get("group", 1)).astype(F32)
    constants = {
        "v": rng.integers(-127, 128, (4, outputs, 3, 3)).astype(np.int8), "vz": np.zeros(outputs, np.int8),
        "vs": rng.uniform(0.001, 0.003, outputs).astype(F32), "b2": bias,
    }  # fmt: skip
    weights = node("DequantizeLinear", ["v", "vs", "vz"], "vd", axis=1)
    layer = node("ConvTranspose", ["y", "vd", "b2"], "p", **fields)
    graph = assert_as_onnxruntime(path, after_conv(weights, layer, **constants), near=0.01)
    assert [type(n) for n in graph.layers()] == [ir.Conv, ir.ConvTranspose]
    two = [node("ConvTranspose", ["y", "vd"], "c2", **fields), node("Add", ["c2", "b3"], "p")]
    constants = constants | {"b3": bias.reshape(1, -1, 1, 1)}
    same = assert_as_onnxruntime(path, after_conv(weights, *two, **constants), near=0.01)
    np.testing.assert_array_equal(same.layers()[1].bias, graph.layers()[1].bias)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"output_shape": [33, 33]}, "output_shape: expected pads"),
        ({"group": 3}, "group: found 3, expected a divisor of the 4 input channels"),
        ({"auto_pad": "SAME_UPPER"}, "auto_pad: found 'SAME_UPPER'"),
        ({"output_padding": [2, 0], "strides": [2, 2]}, "output_padding: found"),
    ],
)
def test_transposed_convolutions_that_are_refused(path, fields, message):
    constants = {"v": np.ones((4, 3, 3, 3), np.int8), "vz": np.int8(0), "vs": F32(0.01)}
    weights = node("DequantizeLinear", ["v", "vs", "vz"], "vd")
    with pytest.raises(InputError, match=message):
        imported(path, after_conv(weights, node("ConvTranspose", ["y", "vd"], "p", **fields), **constants))


@pytest.mark.parametrize("mode", ["CRD", "DCR", None])
def test_depth_to_space(path, mode):
    fields = {} if mode is None else {"mode": mode}
    graph = assert_as_onnxruntime(path, after_conv(node("DepthToSpace", ["y"], "p", blocksize=2, **fields)))
    assert sum(isinstance(n, ir.DepthToSpace) for n in graph.nodes) == 1
    with pytest.raises(InputError, match="blocksize: found 3|a multiple of 9 channels"):
        imported(path, after_conv(node("DepthToSpace", ["y"], "p", blocksize=3, **fields)))


@pytest.mark.parametrize("operator", ["Mul", "Add"])
def test_one_channel_beside_several(path, operator):
    rng = np.random.default_rng(8)
    constants = {
        "v": rng.integers(-127, 128, (1, 4, 1, 1)).astype(np.int8), "vz": np.int8(0), "vs": F32(0.01),
        "sm": F32(0.03), "zm": np.uint8(130),
    }  # fmt: skip
    nodes = [
        node("DequantizeLinear", ["v", "vs", "vz"], "vd"), node("Conv", ["y", "vd"], "m"),
        node("QuantizeLinear", ["m", "sm", "zm"], "mq"), node("DequantizeLinear", ["mq", "sm", "zm"], "md"),
        node(operator, ["md", "y"], "p"),
    ]  # fmt: skip
    graph = assert_as_onnxruntime(path, after_conv(*nodes, **constants), near=0.05)
    assert [type(n) for n in graph.nodes].count(ir.Select) == 1
