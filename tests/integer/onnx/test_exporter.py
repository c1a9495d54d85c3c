"""Exported models on ONNX Runtime, with exact products, against the reference: equality to the last bit."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from oracles.random_graphs import random_graph, random_images
from oracles.reference import around, conv, linear, q, small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.onnx.exporter import IR_VERSION, OPSET, build_model, export_onnx
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

F32 = np.float32


def assert_equal(graph: ir.Graph, images: np.ndarray) -> list[np.ndarray]:
    graph = graph.with_accumulator(NAMED["int32"])
    model = build_model(graph, images.shape[1:])
    found, expected = run_onnx(model, images), Reference(graph).run(images).outputs
    assert [o.name for o in model.graph.output] == list(graph.outputs)
    for name, a, b in zip(graph.outputs, found, expected, strict=True):
        assert a.dtype == b.dtype == F32 and a.shape == b.shape
        np.testing.assert_array_equal(a, b, err_msg=name)
    return found


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_random_graphs(first):
    for seed in range(first, first + 50):
        graph, shape = random_graph(seed)
        assert_equal(graph, random_images(np.random.default_rng(seed), 2, shape))


def test_every_operator_is_in_a_random_graph():
    """What holds for all of these holds for every operator."""
    kinds = {type(node) for seed in range(120) for node in random_graph(seed)[0].nodes}
    assert kinds == set(ir.OPERATORS.values())


def test_a_network_in_any_batch():
    case = small_network()
    assert_equal(case.graph, case.images)
    assert_equal(case.graph, case.images[:1])


def images_of(codes, source: ir.QParams) -> np.ndarray:
    return ((np.asarray(codes).astype(F32) - source.zero_point) * source.scale).astype(F32)


def scales(seed: int, count: int):
    """Scales whose quotients are near small fractions: sums then lie near halves, where roundings part."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        unit = rng.uniform(0.01, 0.1)
        yield tuple(F32(unit * rng.choice([1, 2, 3, 4, 5, 6, 8]) / rng.choice([1, 2, 3, 4, 5, 6])) for _ in range(3))


@pytest.mark.parametrize("case", range(4))
def test_add_on_every_pair_of_codes(case):
    source, weight = q(1.0), np.eye(2).reshape(2, 1, 2, 1, 1)
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)))[None].astype(F32)
    for index, (sa, sb, so) in enumerate(scales(case, 6)):
        za, zb, zo = ((0, 0, 0), (128, 3, 90), (255, 128, 17))[index % 3]
        # 'a' and 'b' have the codes of the image's two channels, at their own QParams.
        nodes = (
            conv("a", "x", source, ir.QParams(sa, za, 255), weight[0], [-za], [sa]),
            conv("b", "x", source, ir.QParams(sb, zb, 255), weight[1], [-zb], [sb]),
            ir.Add("s", ("a", "b"), ir.QParams(so, zo, 255 if index % 2 else 201)),
        )
        graph = around(*nodes, source=source, outputs=("s", "a", "b"))
        found = assert_equal(graph, pairs)
        assert len(np.unique(found[1])) == len(np.unique(found[2])) == 256  # every pair, indeed


def test_requantize_and_concat_on_every_code():
    source = q(1.0)
    for index, (s1, s2, s3) in enumerate(scales(9, 40)):
        z1, z2, z3 = ((0, 255, 128), (7, 0, 99), (128, 64, 0))[index % 3]
        top = 180 if index % 2 else 255
        first, second, third = ir.QParams(s1, z1, 255), ir.QParams(s2, z2, max(top, z2)), ir.QParams(s3, z3, top)
        nodes = (
            ir.Requantize("a", ("x",), first),
            ir.Requantize("b", ("a",), second),
            ir.Requantize("same", ("b",), second),
            ir.Concat("c", ("b", "a", "b", "x"), third),
            ir.Concat("copy", ("same", "b"), second),
        )
        graph = around(*nodes, source=source, outputs=("a", "b", "same", "c", "copy"))
        codes = np.arange(256, dtype=F32).reshape(1, 1, 16, 16)
        assert_equal(graph, codes)
        assert_equal(around(*nodes[:2], source=source), codes)  # a chain, nothing else reads what is between


@pytest.mark.parametrize(
    "channels, outputs, groups, kernel, stride, padding, dilation",
    [
        (3, 8, 1, (3, 3), (2, 2), (1, 1), (1, 1)), (8, 8, 8, (3, 3), (1, 1), (1, 1), (1, 1)),
        (17, 17, 17, (5, 3), (2, 1), (2, 0), (1, 2)), (6, 12, 6, (3, 3), (1, 2), (1, 1), (1, 1)),
        (12, 9, 3, (2, 3), (1, 1), (0, 2), (3, 2)), (33, 7, 1, (1, 1), (1, 1), (0, 0), (1, 1)),
        (33, 5, 1, (1, 1), (2, 3), (1, 1), (1, 1)), (1, 1, 1, (7, 7), (1, 1), (3, 3), (1, 1)),
        (64, 40, 1, (3, 3), (1, 1), (1, 1), (2, 2)),
    ],
)  # fmt: skip
def test_convolutions(channels, outputs, groups, kernel, stride, padding, dilation):
    rng = np.random.default_rng(channels)
    weight = rng.integers(-128, 128, (outputs, channels // groups, *kernel))
    bias = rng.integers(-(2**15), 2**15, outputs)
    scale = rng.choice([0.002, 0.003, 0.004, 0.00125], outputs)
    different = 0
    for source, output in ((q(0.04, 0), q(0.8, 100, 200)), (q(0.05, 255), q(0.5, 0)), (q(0.03, 77, 100), q(0.24, 255))):
        fields = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        node = conv("c", "x", source, output, weight, bias, scale, **fields)
        codes = rng.integers(0, source.q_max + 1, (2, channels, 13, 11))
        different += len(np.unique(assert_equal(around(node, source=source), images_of(codes, source))[0]))
    assert different > 50


def test_conv_at_every_half():
    """Accumulators from -400 to 400 times one half: all are ties, to even."""
    source, output = q(1.0, 128), ir.QParams(F32(2.0), 128, 255)
    node = conv("c", "x", source, output, [[[[1]]], [[[3]]], [[[-5]]]], [0, 1, 2], [1.0, 1.0, 1.0])
    found = assert_equal(around(node, source=source), images_of(np.arange(256).reshape(1, 1, 16, 16), source))
    assert len(np.unique(found[0])) > 100


def test_bias_wraps_as_int32_does():
    node = conv("c", "x", q(), q(100, 128), [[[[127]]], [[[-128]]]], [2**31 - 1, -(2**31)])
    assert_equal(around(node, source=q()), np.arange(256, dtype=F32).reshape(1, 1, 16, 16))


@pytest.mark.parametrize("depth, outputs", [(1, 1), (7, 3), (64, 16), (65, 33), (300, 10)])
def test_linear(depth, outputs):
    rng = np.random.default_rng(depth)
    for source, output in ((q(0.1, 5), q(3.0, 120)), (q(0.1, 200, 220), q(3.0, 0, 99))):
        weight, bias = rng.integers(-128, 128, (outputs, depth)), rng.integers(-20000, 20000, outputs)
        scale = rng.choice([0.01, 0.015, 0.02], outputs)
        nodes = (ir.Flatten("f", ("x",), source), linear("fc", "f", source, output, weight, bias, scale))
        codes = rng.integers(0, source.q_max + 1, (20, depth, 1, 1))
        assert_equal(around(*nodes, source=source), images_of(codes, source))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "kernel, stride, padding, dilation",
    [
        ((2, 2), (2, 2), (0, 0), (1, 1)),
        ((3, 3), (2, 2), (1, 1), (1, 1)),
        ((3, 2), (2, 3), (1, 1), (1, 1)),
        ((3, 3), (3, 3), (0, 1), (1, 2)),
        ((1, 1), (2, 2), (0, 0), (1, 1)),
        ((2, 2), (3, 3), (1, 1), (2, 2)),
        ((3, 3), (1, 2), (3, 3), (3, 3)),
    ],  # fmt: skip
)
def test_max_pool(kernel, stride, padding, dilation, ceil_mode):
    rng = np.random.default_rng(4)
    source = q(0.1, 7, 250)
    for size in ((7, 7), (7, 8), (8, 9), (9, 9)):
        node = ir.MaxPool("p", ("x",), source, kernel, stride, padding, dilation, ceil_mode)
        codes = rng.integers(0, source.q_max + 1, (2, 17, *size))
        assert_equal(around(node, source=source), images_of(codes, source))


def test_average_pools():
    rng = np.random.default_rng(5)
    for (s, _, so), kernel, z in zip(scales(5, 12), itertools.cycle([(2, 2), (3, 2), (5, 4)]), itertools.cycle([0, 9])):
        source, output = ir.QParams(s, z, 255), ir.QParams(so, 250 * (z > 0), 255)
        nodes = (
            ir.AvgPool("p", ("x",), output, kernel, (1, 2), (kernel[0] // 2, kernel[1] // 2)),
            ir.AvgPool("whole", ("x",), output, (9, 8), (1, 1)),
            ir.GlobalAvgPool("g", ("x",), output, keepdims=False),
            ir.GlobalAvgPool("h", ("p",), ir.QParams(so, 3, 77), keepdims=True),
        )
        codes = rng.integers(0, 256, (3, 10, 9, 8))
        assert_equal(around(*nodes, source=source, outputs=("p", "whole", "g", "h")), images_of(codes, source))


def test_global_average_of_a_large_image():
    source = q(0.5, 1)
    node = ir.GlobalAvgPool("g", ("x",), q(0.25, 3), keepdims=True)
    codes = np.random.default_rng(6).integers(0, 256, (1, 2, 301, 299))
    assert_equal(around(node, source=source), images_of(codes, source))


@pytest.mark.parametrize("align_corners", [False, True])
def test_resize(align_corners):
    rng = np.random.default_rng(7)
    source = q(0.1, 100, 240)
    sizes = [
        ((4, 5), (8, 10)),
        ((4, 5), (7, 3)),
        ((1, 1), (5, 6)),
        ((9, 7), (1, 1)),
        ((6, 6), (6, 6)),
        ((3, 3), (64, 3)),
    ]
    for size, wanted in sizes:
        # the source has the size `wanted`; a strided pooling makes the smaller or equal value that is resized
        if wanted[0] < size[0] or wanted[1] < size[1]:
            continue
        kernel = (wanted[0] - size[0] + 1, wanted[1] - size[1] + 1)
        nodes = (
            ir.MaxPool("m", ("x",), source, kernel, (1, 1)),
            ir.Resize("r", ("m", "x"), source, align_corners),
            ir.Resize("back", ("x", "m"), source, align_corners),
        )
        codes = rng.integers(0, 241, (2, 3, *wanted))
        assert_equal(around(*nodes, source=source, outputs=("r", "back")), images_of(codes, source))


def test_quantize_where_quotients_are_halves():
    source = ir.QParams(F32(0.1), 100, 200)
    values = (np.arange(-3000, 3000, dtype=np.float64) * 0.05).astype(F32)
    values = np.concatenate([values, np.nextafter(values, F32(1e9)), np.nextafter(values, F32(-1e9)), [F32(3e38)]])
    assert_equal(around(source=source), values.astype(F32).reshape(1, 1, 1, -1))


def test_names_that_look_like_parts_of_others():
    source = q(0.1)
    nodes = (
        conv("a", "x", source, q(0.1, 0, 9), np.ones((1, 1, 1, 1))),
        conv("a/weight", "a", q(0.1, 0, 9), source, np.ones((1, 1, 1, 1))),
        ir.Add("a//weight", ("a", "a/weight"), source),
    )
    assert_equal(around(*nodes, source=source), images_of(np.arange(4).reshape(1, 1, 2, 2), source))


def test_the_file_is_plain_onnx(tmp_path):
    case = small_network()
    path = export_onnx(case.graph, (3, 16, 12), tmp_path / "deep" / "model.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == IR_VERSION <= 8 and model.opset_import[0].version == OPSET <= 13
    assert {node.domain for node in model.graph.node} == {""}
    found = run_onnx(path, case.images)
    for a, b in zip(found, Reference(case.graph).run(case.images).outputs, strict=True):
        np.testing.assert_array_equal(a, b)
    again = export_onnx(case.graph, (3, 16, 12), tmp_path / "again.onnx")
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*.onnx")) == ["again.onnx", "model.onnx"]  # nothing half written


def test_layers_are_fused_to_integer_kernels(tmp_path):
    """What makes the model fast: no convolution or matrix product is left in float."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    content = build_model(small_network().graph, (3, 16, 12)).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert kinds.count("QLinearConv") == 4 and kinds.count("QGemm") == 1
    assert not {"Conv", "Gemm", "MatMul", "FusedConv"} & set(kinds)


def test_errors(tmp_path):
    case = small_network()
    with pytest.raises(InputError, match="stem.*3 channels"):
        export_onnx(case.graph, (4, 16, 12), tmp_path / "m.onnx")
    node = conv("c", "x", q(), q(), np.ones((1, 1, 1, 1)))
    object.__setattr__(node, "multiplier", node.multiplier * F32(1 + 1e-6))
    with pytest.raises(InputError, match="graph node 'c': multiplier"):
        export_onnx(around(node, source=q()), (1, 2, 2), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="UTF-8"):
        export_onnx(around(ir.Requantize("\ud800", ("x",), q()), source=q()), (1, 2, 2), tmp_path / "m.onnx")
    pool = ir.AvgPool("p", ("x",), q(), (512, 512), (1, 1), (240, 240))
    with pytest.raises(InputError, match="bytes of constants"):
        export_onnx(around(pool, source=q()), (8192, 32, 32), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
