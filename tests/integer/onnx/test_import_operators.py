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
        assert codes.max() <= 1 and (codes > 0).mean() < 0.02 and len(np.unique(b)) > 10


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
