"""The reference against formulas written out once more, torch's pooling, and ONNX Runtime's QLinearConv."""

import math
import subprocess
import sys
import weakref
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import reference
from oracles.reference import around, conv, linear, q, small_network

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.graph.arithmetic import requantize
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

F32 = np.float32


def half_even(value: np.float32) -> int:
    """Round half to even with integers: Python's round of the exact value."""
    return round(float(value))


def clamp(value: int, output: ir.QParams) -> int:
    return min(max(value + output.zero_point, 0), output.q_max)


def codes_of(nodes, source, images, name=None):
    """Codes of a node (default: the last) for float images whose codes are exact under `source`."""
    graph = around(*nodes, source=source)
    return Reference(graph).run(images, trace=True).values[name or nodes[-1].name]


def image(codes, source: ir.QParams) -> np.ndarray:
    """Float images that quantize to these codes."""
    return ((np.asarray(codes).astype(F32) - source.zero_point) * source.scale).astype(F32)


def random_codes(rng, shape, source):
    return rng.integers(0, source.q_max + 1, shape).astype(np.uint8)


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-30, 8, width=32), st.integers(0, 255))
def test_requantize_is_float32_throughout(acc, multiplier, zero_point):
    output = q(1.0, zero_point, 255)
    product = F32(np.int32(acc)) * F32(multiplier)
    result = requantize(np.array([[acc]], np.int32), np.array([multiplier], F32), output)
    assert result.dtype == np.uint8 and result[0, 0] == clamp(half_even(product), output)


@pytest.mark.parametrize(
    "acc, multiplier, expected",
    [
        (1, 0.5, 0), (3, 0.5, 2), (5, 0.5, 2), (7, 0.5, 4),  # halves go to even
        (-1, 0.5, 0), (509, 0.5, 254), (511, 0.5, 255), (-(2**31), 1.0, 0), (2**31 - 1, 1.0, 255),
        (16777217, 2.0**-24, 1),  # 2^24 + 1 converts to 2^24
        (25165825, 2.0**-24, 2),  # 1.5 + 2^-24 converts to exactly 1.5
    ],
)  # fmt: skip
def test_requantize_examples(acc, multiplier, expected):
    assert requantize(np.array([acc], np.int32), np.array([multiplier], F32), q())[0] == expected


def test_quantize_and_dequantize():
    source = q(0.1, 3, 200)
    x = np.array([0.0, 0.05, 0.15, 0.25, -0.3, -5, 19.69, 19.75, 1e30, -1e30, 3e38], F32).reshape(1, 1, 1, -1)
    result = Reference(around(source=source)).run(x, trace=True)
    expected = [clamp(half_even(v / F32(0.1)), source) if abs(v) < 1e20 else (200 if v > 0 else 0) for v in x.ravel()]
    assert result.values["x"].ravel().tolist() == expected
    assert result.outputs[0].dtype == np.float32
    np.testing.assert_array_equal(result.outputs[0].ravel(), [(F32(c) - F32(3)) * F32(0.1) for c in expected])


@pytest.mark.parametrize("policy", [NAMED["int32"], NAMED["int16_lanes8"], NAMED["pair_saturating"]])
def test_conv_with_bias_and_channel_scales(policy):
    rng = np.random.default_rng(1)
    source, output = q(0.05, 17, 250), q(0.4, 100, 200)
    weight, bias = rng.integers(-127, 128, (6, 2, 3, 2)), rng.integers(-(2**17), 2**17, 6)
    node = conv(
        "c", "x", source, output, weight, bias, rng.uniform(0.01, 0.03, 6), stride=(2, 1), padding=(1, 0),
        dilation=(1, 2), groups=3, accumulator=policy,
    )  # fmt: skip
    codes = random_codes(rng, (3, 6, 5, 6), source)
    execution = Reference(around(node, source=source)).run(image(codes, source), trace=True)
    acc, events, lowest, highest = reference.conv2d(
        codes.transpose(0, 2, 3, 1), weight.transpose(0, 2, 3, 1), 17, (2, 1), (1, 0), (1, 2), 3, policy
    )
    expected = np.zeros(acc.shape, np.uint8)
    for at in np.ndindex(acc.shape):
        total = np.int32(int(acc[at]) + int(bias[at[3]]))
        expected[at] = clamp(half_even(F32(total) * node.multiplier[at[3]]), output)
    np.testing.assert_array_equal(execution.values["c"], expected.transpose(0, 3, 1, 2))
    assert execution.events["c"].tolist() == events.reshape(3, -1).sum(1).tolist()
    assert execution.events["c"].dtype == np.int64 and execution.outputs_per_image == {"c": 6 * 3 * 4}
    assert execution.peak["c"] == max(highest / policy.maximum, lowest / policy.minimum)
    assert len(np.unique(expected)) > 20


def test_bias_is_added_modulo_2_to_the_32_and_is_no_overflow():
    source, weight = q(), [[[[127]]]]
    node = conv("c", "x", source, q(100, 128), weight, [2**31 - 1], accumulator=NAMED["int16"])
    execution = Reference(around(node, source=source)).run(np.full((1, 1, 1, 1), 9, F32), trace=True)
    assert execution.events["c"].tolist() == [0] and execution.values["c"].item() == 0  # wrapped to about -2^31


def test_linear():
    rng = np.random.default_rng(2)
    source, output = q(0.1, 5), q(2.0, 120)
    weight, bias = rng.integers(-127, 128, (7, 12)), rng.integers(-5000, 5000, 7)
    policy = Accumulator(bits=14, block=3)
    nodes = (ir.Flatten("f", ("x",), source), linear("fc", "f", source, output, weight, bias, accumulator=policy))
    codes = random_codes(rng, (20, 3, 2, 2), source)
    execution = Reference(around(*nodes, source=source)).run(image(codes, source), trace=True)
    np.testing.assert_array_equal(execution.values["f"], codes.reshape(20, 12))
    for n, o in np.ndindex(20, 7):
        acc, _, _, _ = reference.accumulate([int(c) for c in codes[n].ravel()], [int(w) for w in weight[o]], 5, policy)
        assert execution.values["fc"][n, o] == clamp(half_even(F32(acc + bias[o]) * nodes[1].multiplier[o]), output)
    assert execution.outputs_per_image == {"fc": 7} and execution.events["fc"].shape == (20,)
    assert execution.events["fc"].sum() > 0


def test_add_requantize_and_concat():
    rng = np.random.default_rng(3)
    qx, qa, qs, qr = q(0.03, 9), q(0.05, 60, 180), q(0.07, 33, 220), q(0.045, 0, 127)
    nodes = (
        ir.Requantize("a", ("x",), qa),
        ir.Add("s", ("x", "a"), qs),
        ir.Requantize("r", ("s",), qr),
        ir.Concat("j", ("x", "r", "s"), qs),
    )
    codes = random_codes(rng, (2, 3, 8, 8), qx)
    values = Reference(around(*nodes, source=qx)).run(image(codes, qx), trace=True).values

    def real(code, p):
        return (F32(code) - F32(p.zero_point)) * p.scale

    def to(value, p):
        return clamp(half_even(value / p.scale), p)

    for at in np.ndindex(codes.shape):
        x = codes[at]
        a = to(real(x, qx), qa)
        s = to(real(x, qx) + real(a, qa), qs)
        r = to(real(s, qs), qr)
        assert (values["a"][at], values["s"][at], values["r"][at]) == (a, s, r)
        joined = [values["j"][at[0], at[1] + 3 * part, at[2], at[3]] for part in range(3)]
        assert joined == [to(real(x, qx), qs), to(real(r, qr), qs), s]


def test_elementwise_reads_its_table():
    rng = np.random.default_rng(6)
    source, output = q(0.1, 7), q(0.2, 3, 99)
    codes, table = random_codes(rng, (2, 5, 4, 3), source), rng.integers(0, 100, 256).astype(np.uint8)
    found = codes_of([ir.Elementwise("e", ("x",), output, table)], source, image(codes, source))
    assert found.tolist() == [[[[table[c] for c in row] for row in plane] for plane in i] for i in codes]


@pytest.mark.parametrize("single", [True, False])
def test_multiply_on_every_pair_of_codes(single):
    """Exact products, one float32 multiplication, halves to even: with fractions for scales there are many."""
    qx, qa, qb, qy = q(), q(1.0, 3), q(0.5, 200), q(96.0, 120, 250)
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)))[None]  # channel 0 times channel 1
    if single:
        pairs = pairs[..., :1]  # [1, 2, 256, 1]: a factor per channel of images of 1x1 pixels
    weight = np.eye(2).reshape(2, 1, 2, 1, 1)
    nodes = (
        conv("a", "x", qx, qa, weight[0], [-3], [1.0]),
        conv("b", "x", qx, qb, weight[1], [-200], [0.5]),
        *([ir.GlobalAvgPool("g", ("b",), qb, keepdims=True)] if single else []),
        ir.Multiply("m", ("a", "g" if single else "b"), qy),
    )
    values = Reference(around(*nodes, source=qx)).run(image(pairs, qx), trace=True).values
    a, b = np.broadcast_arrays(values["a"].astype(int), values["g" if single else "b"].astype(int))
    multiplier = F32(F32(1.0) * F32(0.5)) / qy.scale
    for at in np.ndindex(a.shape):
        product = (int(a[at]) - 3) * (int(b[at]) - 200)
        assert values["m"][at] == clamp(half_even(F32(product) * multiplier), qy)
    assert single or (len(np.unique(a)) == len(np.unique(b)) == 256 and len(np.unique(values["m"])) > 180)


def test_select_takes_channels():
    rng, source = np.random.default_rng(7), q(0.1, 7)
    codes = random_codes(rng, (2, 5, 4, 3), source)
    for channels in ([0, 1], [4, 2, 0, 1, 3], [3, 3, 3, 0, 1, 2, 4]):
        found = codes_of([ir.Select("s", ("x",), source, np.array(channels))], source, image(codes, source))
        assert found.tolist() == [[image[c] for c in channels] for image in codes.tolist()]


def test_identity_requantize_copies():
    source = q(0.1, 7, 100)
    codes = np.arange(101, dtype=np.uint8).reshape(1, 1, 1, -1)
    np.testing.assert_array_equal(codes_of([ir.Requantize("r", ("x",), source)], source, image(codes, source)), codes)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "kernel, stride, padding, dilation",
    [((2, 2), (2, 2), (0, 0), (1, 1)), ((3, 3), (2, 2), (1, 1), (1, 1)), ((3, 2), (2, 3), (1, 1), (1, 1)),
     ((3, 3), (3, 3), (0, 1), (1, 2)), ((1, 1), (2, 2), (0, 0), (1, 1)), ((2, 2), (3, 3), (1, 1), (2, 2))],
)  # fmt: skip
def test_max_pool_equals_torch(kernel, stride, padding, dilation, ceil_mode):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    source = q(0.1, 7)
    for size in ((6, 7), (7, 8), (8, 5), (9, 9)):
        codes = random_codes(rng, (2, 3, *size), source)
        node = ir.MaxPool("p", ("x",), source, kernel, stride, padding, dilation, ceil_mode)
        expected = torch.nn.functional.max_pool2d(
            torch.from_numpy(codes).float(), kernel, stride, padding, dilation, ceil_mode
        )
        np.testing.assert_array_equal(codes_of([node], source, image(codes, source)), expected.numpy())


@pytest.mark.parametrize(
    "kernel, stride, padding", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((3, 5), (1, 2), (0, 2))]
)
@pytest.mark.parametrize("counted", [True, False])
def test_average_pool(kernel, stride, padding, counted):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    source, output = q(0.1, 77), q(0.083, 60, 230)
    codes = random_codes(rng, (2, 3, 9, 8), source)
    node = ir.AvgPool("p", ("x",), output, kernel, stride, padding, counted)
    centred = torch.from_numpy(codes.astype(F32) - 77)
    sums = torch.nn.functional.avg_pool2d(centred, kernel, stride, padding, divisor_override=1).numpy()
    inside = torch.nn.functional.avg_pool2d(torch.ones(9, 8)[None, None], kernel, stride, padding, divisor_override=1)
    counts = np.full(sums.shape, kernel[0] * kernel[1]) if counted else np.broadcast_to(inside.numpy(), sums.shape)
    multiplier = source.scale / (output.scale * counts.astype(F32))
    expected = np.vectorize(lambda s, m: clamp(half_even(F32(s) * m), output))(sums, multiplier)
    np.testing.assert_array_equal(codes_of([node], source, image(codes, source)), expected)


@pytest.mark.parametrize("rule", ["floor", "half_pixel"])
def test_resize_nearest(rule):
    """The pixels by loops over fractions."""
    source = q(0.1, 7)
    codes = random_codes(np.random.default_rng(5), (2, 3, 7, 5), source)
    for factor in ((2, 1, 3, 1), (1, 1, 1, 2), (5, 3, 2, 5), (1, 7, 9, 4)):
        node = ir.ResizeNearest("r", ("x",), source, factor, rule)
        result = codes_of([node], source, image(codes, source))
        scales = Fraction(factor[0], factor[1]), Fraction(factor[2], factor[3])
        assert result.shape == (2, 3, int(7 * scales[0]), int(5 * scales[1]))
        for row, column in np.ndindex(result.shape[2:]):
            at = []
            for i, scale, size in ((row, scales[0], 7), (column, scales[1], 5)):
                place = i / scale if rule == "floor" else (i + Fraction(1, 2)) / scale - Fraction(1, 2)
                whole = math.floor(place) if rule == "floor" else math.ceil(place - Fraction(1, 2))  # halves go down
                at.append(min(max(whole, 0), size - 1))
            np.testing.assert_array_equal(result[:, :, row, column], codes[:, :, at[0], at[1]])


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_average_pool(keepdims):
    rng = np.random.default_rng(6)
    source, output = q(0.1, 77), q(0.05, 60)
    codes = random_codes(rng, (4, 5, 7, 6), source)
    result = codes_of([ir.GlobalAvgPool("p", ("x",), output, keepdims)], source, image(codes, source))
    assert result.shape == ((4, 5, 1, 1) if keepdims else (4, 5))
    multiplier = source.scale / (output.scale * F32(42))
    for n, c in np.ndindex(4, 5):
        total = int(codes[n, c].astype(int).sum()) - 42 * 77
        assert result[n, c].item() == clamp(half_even(F32(total) * multiplier), output)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size, target", [((4, 5), (8, 10)), ((7, 3), (5, 9)), ((1, 1), (6, 4)), ((9, 9), (1, 2))])
def test_resize(size, target, align_corners):
    """The formula by loops; and within one code of torch, whose own rounding of coordinates may differ."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    source = q(0.1, 7)
    pool = [max(s, t) for s, t in zip(size, target, strict=True)]
    codes = random_codes(rng, (2, 3, *pool), source)
    nodes = [
        ir.MaxPool("small", ("x",), source, tuple(p - s + 1 for p, s in zip(pool, size, strict=True)), (1, 1)),
        ir.MaxPool("like", ("x",), source, tuple(p - t + 1 for p, t in zip(pool, target, strict=True)), (1, 1)),
        ir.Resize("r", ("small", "like"), source, align_corners),
    ]
    graph = around(*nodes, source=source)
    values = Reference(graph).run(image(codes, source), trace=True).values
    small, result = values["small"], values["r"]
    assert small.shape[2:] == size and result.shape[2:] == target

    def taps(i, axis):
        n, m = size[axis], target[axis]
        corners = i * ((n - 1) / (m - 1) if m > 1 else 0.0)
        position = corners if align_corners else max((i + 0.5) * (n / m) - 0.5, 0.0)
        low = min(int(position), n - 1)
        return low, min(low + 1, n - 1), F32(position - low)

    def mix(a, b, t):
        return a * (F32(1) - t) + b * t

    for n, c, row, column in np.ndindex(result.shape):
        (top, bottom, ty), (left, right, tx) = taps(row, 0), taps(column, 1)
        plane = small[n, c].astype(F32)
        value = mix(
            mix(plane[top, left], plane[bottom, left], ty), mix(plane[top, right], plane[bottom, right], ty), tx
        )
        assert result[n, c, row, column] == half_even(value)
    other = torch.nn.functional.interpolate(
        torch.from_numpy(small).float(), target, mode="bilinear", align_corners=align_corners
    )
    assert np.abs(other.numpy() - result).max() <= 0.5 + 1e-3


def test_onnx_runtime_gives_the_same_codes():
    """QLinearConv, ONNX Runtime's CPU kernel."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(8)
    source, output = q(0.04, 111), q(0.31, 83)
    for groups, outputs in ((1, 16), (8, 8), (2, 6)):
        weight = rng.integers(-128, 128, (outputs, 8 // groups, 3, 3)).astype(np.int8)
        bias, scale = rng.integers(-9000, 9000, outputs).astype(np.int32), rng.uniform(0.01, 0.05, outputs).astype(F32)
        node = conv("c", "x", source, output, weight, bias, scale, stride=(2, 2), padding=(1, 1), groups=groups)
        codes = random_codes(rng, (2, 8, 15, 14), source)
        constants = {
            "xs": source.scale, "xz": np.uint8(111), "w": weight, "ws": scale, "wz": np.zeros(outputs, np.int8),
            "ys": output.scale, "yz": np.uint8(83), "b": bias,
        }  # fmt: skip
        operator = helper.make_node(
            "QLinearConv", ["x", *constants], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=groups
        )
        graph = helper.make_graph(
            [operator], "g",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, codes.shape)],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [2, outputs, 8, 7])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        (expected,) = run_onnx(model, codes)
        np.testing.assert_array_equal(codes_of([node], source, image(codes, source)), expected)
        assert len(np.unique(expected)) > 100


# whole networks --------------------------------------------------------------------------------------------------


def assert_same_execution(a, b):
    for x, y in zip(a.outputs, b.outputs, strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.outputs_per_image == b.outputs_per_image and a.peak == b.peak
    for left, right in ((a.events, b.events), (a.values, b.values)):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_and_batches_change_nothing(threads):
    case = small_network(accumulator=Accumulator(bits=15))
    images = np.concatenate([case.images] * 8)  # 40 images: several chunks
    single = Reference(case.graph).run(images, trace=True)
    assert_same_execution(Reference(case.graph, threads=threads).run(images, trace=True), single)
    alone = [Reference(case.graph).run(images[i : i + 1]) for i in range(5)]
    np.testing.assert_array_equal(np.concatenate([e.outputs[1] for e in alone]), single.outputs[1][:5])
    assert [int(e.events["stem"][0]) for e in alone] == single.events["stem"][:5].tolist()
    assert max(e.peak["stem"] for e in alone) == single.peak["stem"]


def test_narrow_accumulators_change_results_exactly_where_events_are():
    """The first layer's codes differ only in images with events; a wide accumulator has none."""
    case = small_network()
    wide = Reference(case.graph).run(case.images, trace=True)
    assert not any(counts.any() for counts in wide.events.values()) and max(wide.peak.values()) < 1
    narrow = Reference(case.graph.with_accumulator(Accumulator(bits=15))).run(case.images, trace=True)
    assert narrow.events["stem"].sum() > 0 and narrow.peak["stem"] > 1
    assert narrow.peak["stem"] == pytest.approx(wide.peak["stem"] * 2**17, rel=1e-3)
    changed = (narrow.values["stem"] != wide.values["stem"]).reshape(len(case.images), -1).sum(1)
    assert (changed <= narrow.events["stem"]).all()


def test_a_saved_graph_computes_the_same(tmp_path):
    case = small_network()
    loaded = ir.Graph.load(case.graph.save(tmp_path / "net.npz"))
    assert_same_execution(
        Reference(loaded).run(case.images, trace=True),
        Reference(case.graph).run(case.images, trace=True),
    )


def test_traced_values_and_outputs():
    case = small_network()
    traced = Reference(case.graph).run(case.images, trace=True)
    assert set(traced.values) == {n.name for n in case.graph.nodes if not isinstance(n, ir.Dequantize)}
    shapes = case.graph.shapes(case.images.shape[1:])
    for name, value in traced.values.items():
        assert value.dtype == np.uint8 and value.shape == (5, *shapes[name])
        assert value.max() <= case.graph.qparams(name).q_max
    assert [o.shape for o in traced.outputs] == [(5, 5), (5, 22, 8, 6)]
    assert all(o.flags.c_contiguous for o in traced.outputs)
    assert Reference(case.graph).run(case.images).values == {}


def test_values_are_freed_after_their_last_use(monkeypatch):
    """While a chain runs, the value of the node before the last is gone."""
    source = q(0.1)
    chain = [ir.Requantize(f"r{i}", (f"r{i - 1}" if i else "x",), q(0.1 + 0.01 * i, 1)) for i in range(6)]
    alive, most = [], []
    original = ir.Requantize.reference

    def watched(node, inputs, sources):
        result = original(node, inputs, sources)
        alive.append(weakref.ref(result))
        most.append(sum(r() is not None for r in alive))
        return result

    monkeypatch.setattr(ir.Requantize, "reference", watched)
    Reference(around(*chain, source=source)).run(np.zeros((1, 1, 4, 4), F32))
    assert max(most) == 2


def test_input_layout_does_not_matter():
    case = small_network()
    strided = np.asfortranarray(case.images)
    assert_same_execution(
        Reference(case.graph).run(strided, trace=True),
        Reference(case.graph).run(case.images, trace=True),
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x: x.astype(np.float64), r"images: found float64 \[5, 3, 16, 12\], expected .*float32"),
        (lambda x: x[0], "images: found"),
        (lambda x: x[:0], "not empty"),
        (lambda x: x.tolist(), "found list"),
        (lambda x: np.where(x > 1, np.nan, x).astype(F32), "NaN"),
        (lambda x: np.where(x > 1, np.inf, x).astype(F32), "infinity"),
        (lambda x: x[:, :2], "graph node 'stem': found an input .*expected 3 channels"),
        (lambda x: x[:, :, :2, :2], "graph node"),
    ],
)
def test_wrong_images(change, message):
    case = small_network()
    with pytest.raises(InputError, match=message):
        Reference(case.graph).run(change(case.images))


def test_wrong_graph_or_threads():
    case = small_network()
    with pytest.raises(InputError, match="outputs"):
        Reference(replace(case.graph, outputs=()))
    for threads in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="threads"):
            Reference(case.graph, threads=threads)


def test_works_where_torch_is_absent():
    """Graph, reference and certificate need NumPy and the kernel only."""
    program = """
import sys
for name in ("torch", "pytorch_lightning", "hydra", "omegaconf", "mmseg", "wandb", "pandas", "scipy"):
    sys.modules[name] = None
import numpy as np
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.reference import Reference
from oaq_repro.integer.graph import Conv, Dequantize, Graph, QParams, Quantize
from oaq_repro.accumulator import Accumulator
q = QParams(np.float32(0.5), 1, 255)
one = np.ones(1, np.float32)
weight, bias = np.full((1, 1, 1, 1), 2, np.int8), np.zeros(1, np.int32)
layer = Conv("c", ("x",), q, weight, bias, one, one, (1, 1), (0, 0), (1, 1), 1, accumulator=Accumulator(bits=16))
graph = Graph("i", (Quantize("x", ("i",), q), layer, Dequantize("y", ("c",))), ("y",))
execution = Reference(graph, threads=2).run(np.full((2, 1, 1, 1), 3, np.float32))
print(execution.outputs[0].ravel().tolist(), certify(layer, q).certified)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["[6.0,", "6.0]", "True"]


@pytest.mark.parametrize("policy", [NAMED["int32"], NAMED["int16_lanes8"], NAMED["pair_saturating"], NAMED["int16"]])
@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolution(policy, groups):
    """An output's products are those of the taps that meet in it, in the order of the inputs that they read."""
    rng = np.random.default_rng(6)
    source, output, each = q(0.05, 17), q(0.4, 100), 6 // groups
    (sh, sw), (dh, dw), (top, left, bottom, right) = (2, 3), (1, 2), (1, 0, 2, 4)
    weight, bias = rng.integers(-127, 128, (6, each, 4, 3)), rng.integers(-5000, 5000, 6)
    numbers = reference.constants(source, output, rng.uniform(0.01, 0.03, 6), bias)
    node = ir.ConvTranspose(
        "t", ("x",), output, weight=weight.astype(np.int8), **numbers, stride=(sh, sw), dilation=(dh, dw),
        groups=groups, padding=(top, left, bottom, right), output_padding=(1, 2), accumulator=policy,
    )  # fmt: skip
    codes = random_codes(rng, (2, 6, 3, 4), source)
    execution = Reference(around(node, source=source)).run(image(codes, source), trace=True)
    values, events = execution.values["t"], 0
    assert values.shape == (2, 6, 2 * sh - top - bottom + 3 * dh + 1 + 1, 3 * sw - left - right + 2 * dw + 1 + 2)
    for n, o, y, x in np.ndindex(values.shape):
        met = []
        for ky, kx in np.ndindex(4, 3):
            (iy, more), (ix, rest) = divmod(y + top - ky * dh, sh), divmod(x + left - kx * dw, sw)
            if more == rest == 0:
                inside = 0 <= iy < 3 and 0 <= ix < 4
                read = codes[n, o // each * each :, iy, ix] if inside else np.full(each, 17)
                met += [(iy, ix, c, int(read[c]), int(weight[o, c, ky, kx])) for c in range(each)]
        met.sort()
        acc, event, _, _ = reference.accumulate([p[3] for p in met], [p[4] for p in met], 17, policy)
        events += event
        assert values[n, o, y, x] == clamp(half_even(F32(np.int32(acc + bias[o])) * node.multiplier[o]), output)
    assert execution.events["t"].sum() == events and (events > 0 or groups == 3 or policy == NAMED["int32"])


def test_depth_to_space():
    source = q(0.1, 3)
    codes = random_codes(np.random.default_rng(7), (2, 18, 3, 4), source)
    found = codes_of([ir.DepthToSpace("d", ("x",), source, 3)], source, image(codes, source))
    for n, c, y, x in np.ndindex(found.shape):
        assert found[n, c, y, x] == codes[n, 9 * c + 3 * (y % 3) + x % 3, y // 3, x // 3]
    assert found.shape == (2, 2, 9, 12)
