"""Integer requantization of every operator that rounds, against Python's integers and fractions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import requantization as oracle
from oracles.random_graphs import random_graph, random_images
from oracles.reference import around, conv, linear, q, small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.graph.arithmetic import requantize, requantize_dyadic, requantize_fixed16
from oaq_repro.integer.reference import Reference
from oaq_repro.requantization import REQUANTIZATIONS
from oaq_repro.resampling import resize_taps

F32 = np.float32
INTEGERS = ("dyadic", "fixed16")
sums = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-40000, 40000), st.sampled_from([-(2**31), 2**31 - 1]))
scales = st.floats(2.0**-8, 4, width=32)


def values_of(*nodes, codes, source, name=None):
    """Codes of a node (default: the last) for codes of the input."""
    images = ((codes.astype(F32) - source.zero_point) * source.scale).astype(F32)
    run = Reference(around(*nodes, source=source)).run(images, trace=True)
    np.testing.assert_array_equal(run.values["x"], codes)
    return run.values[name or nodes[-1].name]


@settings(max_examples=1000, deadline=None)
@given(sums, st.one_of(st.floats(2.0**-70, 2.0**40), st.floats(2.0**-17, 1)), st.integers(0, 255))
@example(2**31 - 1, 1 - 2.0**-53, 0)
@example(-(2**31), 2.0**40, 255)
@example(24, 2.0**-4, 128)
@example(-24, 2.0**-4, 128)
def test_dyadic(acc, ratio, zero_point):
    output = q(1.0, zero_point, 255)
    found = requantize_dyadic(np.array([[acc]], np.int32), np.array([ratio]), output)
    assert found.dtype == np.uint8 and found[0, 0] == oracle.dyadic_code(acc, ratio, output)


@settings(max_examples=1000, deadline=None)
@given(sums, st.integers(1, 2**15 - 1), st.integers(0, 255))
@example(32767, 2**15 - 1, 0)
@example(-32769, 2**15 - 1, 255)
@example(3, 2**14, 0)
@example(-3, 2**14, 255)
def test_fixed16(acc, m, zero_point):
    output = q(1.0, zero_point, 255)
    found = requantize_fixed16(np.array([acc], np.int32), np.array([m / 2**15]), output)
    assert found.dtype == np.uint8 and found[0] == oracle.fixed16_code(acc, m, output)


def test_dyadic_is_float32_but_for_ties():
    """Codes differ where sums lie at a half, and nowhere else."""
    acc = np.arange(-3000, 3000, dtype=np.int32)
    for ratio in (2.0**-4, 0.0371, 0.11, 1 / 3):
        output = q(1.0, 128, 255)
        ours, theirs = requantize_dyadic(acc, np.float64(F32(ratio)), output), requantize(acc, F32(ratio), output)
        ties = np.abs((acc * ratio) % 1 - 0.5) < 1e-4
        np.testing.assert_array_equal(ours[~ties], theirs[~ties])
    even = requantize(np.array([-24, 8, 40], np.int32), F32(2.0**-4), q(1.0, 128))
    up = requantize_dyadic(np.array([-24, 8, 40], np.int32), np.float64(2.0**-4), q(1.0, 128))
    assert even.tolist() == [126, 128, 130] and up.tolist() == [127, 129, 131]


@pytest.mark.parametrize("kind", ["conv", "linear"])
@pytest.mark.parametrize("policy", ["int32", "int16", "int16_block", "int16_lanes8", "pair_saturating"])
def test_layers(kind, policy):
    """In every accumulator; what the accumulator leaves comes from the emulator, which has tests of its own."""
    rng = np.random.default_rng(1)
    source, output = q(0.05, 17, 250), q(0.4, 100, 200)
    weight, bias = rng.integers(-127, 128, (6, 18)), rng.integers(-(2**14), 2**14, 6)
    scale = (rng.integers(1, 900, 6) * 0.4 / 0.05 / 2**15).astype(F32)
    codes = rng.integers(0, 251, (5, 18, 1, 1)).astype(np.uint8)
    for requantization in INTEGERS:
        if kind == "conv":
            node = conv("c", "x", source, output, weight.reshape(6, 18, 1, 1), bias, scale, accumulator=NAMED[policy])
            nodes, codes_of = (replace(node, requantization=requantization),), lambda found: found[:, :, 0, 0]
        else:
            node = linear("c", "f", source, output, weight, bias, scale, NAMED[policy])
            flat = ir.Flatten("f", ("x",), source)
            nodes, codes_of = (flat, replace(node, requantization=requantization)), lambda found: found
        found = codes_of(values_of(*nodes, codes=codes, source=source))
        acc = nodes[-1].accumulate(codes[:, :, 0, 0] if kind == "linear" else codes.transpose(0, 2, 3, 1), source).acc
        for n, o in np.ndindex(5, 6):
            y = int(acc.reshape(5, 6)[n, o]) + int(bias[o])
            ratio = oracle.product_ratio(source.scale, scale[o], output)
            m = round(ratio * 2**15)
            expected = {"dyadic": oracle.dyadic_code(y, ratio, output), "fixed16": oracle.fixed16_code(y, m, output)}
            assert found[n, o] == expected[requantization]


@settings(max_examples=100, deadline=None)
@given(scales, scales, scales, st.integers(0, 255), st.integers(0, 255), st.sampled_from(INTEGERS))
def test_add_and_multiply(s_a, s_b, s_out, z_a, z_b, requantization):
    a, b, output = q(s_a, z_a), q(s_b, z_b, 255), q(s_out, 90, 201)
    codes = np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8)).astype(np.uint8)
    other = np.random.default_rng(1).permutation(256).astype(np.uint8)
    first = (ir.Elementwise("b", ("x",), b, other),)
    fields = {"requantization": requantization}
    summed = values_of(*first, ir.Add("s", ("x", "b"), output, **fields), codes=codes, source=a)
    product = values_of(*first, ir.Multiply("p", ("x", "b"), output, **fields), codes=codes, source=a)
    bits = {"dyadic": 31, "fixed16": 15}[requantization]
    ratios = [Fraction(float(np.float64(s) / np.float64(output.scale))) for s in (a.scale, b.scale)]
    _, shift = oracle.dyadic(max(ratios), bits)
    m_a, m_b = (min(oracle.rounded(ratio * 2**shift), 2**bits - 1) for ratio in ratios)
    for at in np.ndindex(codes.shape):
        d_a, d_b = int(codes[at]) - z_a, int(other[codes[at]]) - z_b
        expected = oracle.rounded(Fraction(d_a * m_a + d_b * m_b, 2**shift))
        assert summed[at] == oracle.clamped(expected, output)
        assert product[at] == oracle.dyadic_code(d_a * d_b, oracle.product_ratio(a.scale, b.scale, output), output)


@pytest.mark.parametrize("requantization", INTEGERS)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_average_pools(requantization, count_include_pad):
    rng = np.random.default_rng(2)
    fields = {"requantization": requantization}
    for s_in, s_out, z in ((0.1, 0.1, 0), (0.03, 0.05, 77), (0.125, 0.0625, 255)):
        source, output = q(s_in, z), q(s_out, 100, 220)
        codes = rng.integers(0, 256, (1, 2, 5, 6)).astype(np.uint8)
        ratio = np.float64(source.scale)
        pooled = ir.AvgPool("p", ("x",), output, (3, 2), (2, 1), (1, 0), count_include_pad, **fields)
        found = values_of(pooled, codes=codes, source=source)
        for n, c, row, column in np.ndindex(found.shape):
            rows = [r for r in range(2 * row - 1, 2 * row + 2) if 0 <= r < 5]
            total = sum(int(codes[n, c, r, k]) - z for r in rows for k in (column, column + 1))
            count = 6 if count_include_pad else 2 * len(rows)
            expected = oracle.dyadic_code(total, float(ratio / (np.float64(output.scale) * count)), output)
            assert found[n, c, row, column] == expected
        found = values_of(ir.GlobalAvgPool("g", ("x",), output, False, **fields), codes=codes, source=source)
        for c in range(2):
            total = int(codes[0, c].astype(int).sum()) - 30 * z
            assert found[0, c] == oracle.dyadic_code(total, float(ratio / (np.float64(output.scale) * 30)), output)


@pytest.mark.parametrize("requantization", INTEGERS)
@pytest.mark.parametrize("align_corners", [True, False])
def test_resize(requantization, align_corners):
    source = q(0.1, 3, 240)
    codes = np.random.default_rng(3).integers(0, 241, (1, 2, 4, 3)).astype(np.uint8)
    for factor in ((2, 1, 2, 1), (7, 4, 5, 3), (1, 2, 2, 3)):
        node = ir.Resize("r", ("x",), source, align_corners, factor, requantization=requantization)
        found = values_of(node, codes=codes, source=source)
        taps = [
            resize_taps(size, wanted, align_corners)
            for size, wanted in zip(codes.shape[2:], found.shape[2:], strict=True)
        ]
        for at in np.ndindex(found.shape):
            total = 0
            for row, share in _shares(taps[0], at[2]):
                for column, other in _shares(taps[1], at[3]):
                    total += share * other * int(codes[at[0], at[1], row, column])
            assert found[at] == oracle.rounded(Fraction(total, 2**22))


def _shares(taps, index):
    first, second, t = (part[index] for part in taps)
    share = oracle.rounded(Fraction(float(t)) * 2**11)
    return (int(first), 2**11 - share), (int(second), share)


def test_graphs_keep_it_in_their_files(tmp_path):
    for requantization in REQUANTIZATIONS:
        graph = oracle.requantized(small_network().graph, requantization)
        graph.validate()
        again = ir.Graph.load(graph.save(tmp_path / "net.npz"))
        kinds = [n.requantization for n in again.nodes if isinstance(n, ir.RoundingNode)]
        assert kinds == [requantization] * 9
        for a, b in zip(again.nodes, graph.nodes, strict=True):
            assert getattr(a, "requantization", None) == getattr(b, "requantization", None)


@pytest.mark.parametrize("requantization", REQUANTIZATIONS)
def test_random_graphs_are_valid(requantization):
    """And exact whole sums give what 16-bit sums give where none overflows: one function."""
    taken = set()
    for seed in range(40):
        graph, shape = random_graph(seed)
        graph = oracle.requantized(graph, requantization)
        graph.validate()
        taken |= {layer.requantization for layer in graph.layers()}
        images = random_images(np.random.default_rng(seed), 2, shape)
        wide, narrow = (Reference(graph.with_accumulator(NAMED[name])).run(images) for name in ("int32", "int16"))
        if not any(events.any() for events in narrow.events.values()):
            for a, b in zip(wide.outputs, narrow.outputs, strict=True):
                np.testing.assert_array_equal(a, b)
    assert requantization in taken


def _conv(**changes):
    scale = np.array([100, 32767, 1]) * 2.0**-15
    node = conv("c", "x", q(), q(), np.ones((3, 2, 1, 1)), [0, 2**15 - 1, -(2**15)], scale)
    return around(replace(node, requantization="fixed16", **changes), source=q())


@pytest.mark.parametrize(
    "scale, message",
    [
        (
            [1e-3, 0.5, 0.5],
            "of scales of 32.768 / 2\\^15 in channel 0, expected an integer",
        ),
        ([0.5, 0.5, 1.0], "32768 / 2\\^15 in channel 2, expected an integer from 1 to 32767"),
        ([0.5, 1e-9, 0.5], "channel 1"),
    ],
)
def test_fixed16_needs_snapped_scales(scale, message):
    _conv().validate()
    scale = np.array(scale, F32)
    with pytest.raises(InputError, match=f"graph node 'c': weight_scale: found a ratio.*{message}"):
        _conv(weight_scale=scale, multiplier=scale).validate()


def test_fixed16_needs_biases_of_16_bits():
    with pytest.raises(InputError, match="graph node 'c': bias: found -32769, expected 16 bits"):
        _conv(bias=np.array([0, 5, -32769], np.int32)).validate()


def test_unknown_values():
    for wrong in ("int8", 3, None, ("float32",)):
        graph = around(ir.Add("s", ("x", "x"), q(), requantization=wrong), source=q())
        with pytest.raises(
            InputError, match="graph node 's': requantization: found .*, expected one of float32, dyadic"
        ):
            graph.validate()
