"""The engine against the reference, bit for bit: all modes, all instruction sets, overflow included."""

from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.random_graphs import random_graph, random_images
from oracles.requantization import requantized

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine, by_rows
from oaq_repro.integer.engine.compiling import compile_graph
from oaq_repro.integer.engine.plan import place
from oaq_repro.integer.engine.reorder import Ordered
from oaq_repro.integer.engine.routes import InstructionSet
from oaq_repro.integer.engine.sums import EXACT, MODES, WHOLE, Permits, folded
from oaq_repro.integer.graph import CodeNode, Conv, Dequantize, Elementwise, Graph, QParams, Quantize
from oaq_repro.integer.reference import Reference
from oaq_repro.requantization import REQUANTIZATIONS

ISAS = [row["isa"] for row in _kernels.table() if row["available"]]
INT32 = NAMED["int32"]
LARGEST_BIAS = _kernels.LARGEST_BIAS
BIASES = [-32768, 32767, 32768, 10**6, *(sign * (LARGEST_BIAS + beyond) for sign in (1, -1) for beyond in (0, 1))]


def single(weight, q_max=255, zero_point=0, accumulator=INT32, bias=0, out=None, multiplier=None, **geometry) -> Graph:
    """One convolution between input and output, all scales powers of two."""
    scale = np.float32(0.5)
    weight = np.asarray(weight, np.int8)
    outputs = len(weight)
    weight_scale = np.full(outputs, 2.0**-6 if multiplier is None else multiplier, np.float32)
    fields = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **geometry}
    layer = Conv(
        "layer", ("x",), out or QParams(scale, 100, 255), weight, np.full(outputs, bias, np.int32), weight_scale,
        weight_scale, accumulator=accumulator, **fields,
    )  # fmt: skip
    nodes = (Quantize("x", ("image",), QParams(scale, zero_point, q_max)), layer, Dequantize("y", ("layer",)))
    return Graph("image", nodes, ("y",))


def codes_to_images(codes, graph: Graph) -> np.ndarray:
    """Images that the graph quantizes to these codes."""
    q = graph.qparams("x")
    return ((np.asarray(codes, np.float32) - q.zero_point) * q.scale).astype(np.float32)


def check(graph: Graph, images: np.ndarray, mode, isa, threads=1, trace=False) -> Engine:
    """The engine's results must be the reference's; returns the engine."""
    oracle = Reference(graph if mode == "fast" else graph.with_accumulator(INT32))
    expected = oracle.run(images, trace=trace)
    with mock.patch.object(by_rows, "SMALLEST", 0):  # however small values are
        engine = Engine(graph, images.shape[1:], threads, mode, isa=isa, trace=trace)
    for found, wanted in zip(engine.run(images), expected.outputs, strict=True):
        np.testing.assert_array_equal(found, wanted)
    for name, codes in expected.values.items():
        np.testing.assert_array_equal(engine.value(name), codes[-1], err_msg=name)
    return engine


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_random_graphs(first, isa):
    for seed in range(first, first + 100):
        graph, shape = random_graph(seed)
        graph = requantized(graph, REQUANTIZATIONS[(seed + seed // 3) % 3])
        images = random_images(np.random.default_rng(seed), 2, shape)
        mode = MODES[(seed + seed // 4) % 4]
        check(graph, images, mode, isa, threads=1 + seed % 3, trace=bool(seed % 3))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(1000, 10**9),
    requantization=st.sampled_from(REQUANTIZATIONS),
    mode=st.sampled_from(MODES),
    isa=st.sampled_from(ISAS),
)
def test_random_graphs_by_hypothesis(seed, requantization, mode, isa):
    graph, shape = random_graph(seed)
    graph = requantized(graph, requantization)
    check(graph, random_images(np.random.default_rng(seed), 1, shape), mode, isa, trace=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [9, 12, 16, 17, 24])
@pytest.mark.parametrize("groups", [1, 2, 40])
def test_overflow_wraps_as_the_accumulator_says(isa, bits, groups):
    rng = np.random.default_rng(bits)
    graph = single(
        rng.integers(-90, 91, (40, 40 // groups, 3, 3)), 150, 9, Accumulator(bits=bits), padding=(1, 1), groups=groups
    )
    images = codes_to_images(rng.choice([0, 150, 150, 75], (2, 40, 9, 7)), graph)
    can_overflow = bits < (17 if groups == 40 else 24)
    assert bool(Reference(graph).run(images).events["layer"].sum()) == can_overflow
    assert check(graph, images, "fast", isa).routes[0].claim == ("empirical" if can_overflow else "certified")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("depth", [4, 16, 64, 100])
@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_at_the_bound_and_one_beyond_it(isa, depth, beyond, sign):
    """A sum that is exactly the largest (smallest) value of 16 bits, and one more (less)."""
    limit = 32767 if sign > 0 else 32768
    wanted = limit + beyond
    weights = np.zeros(depth, np.int64)
    q_max = max(-(-wanted // (127 * depth)), 1)
    q_max = min(max(q_max, 100), 255)
    weights[:] = min(wanted // (q_max * depth), 127)
    left = wanted - int(weights.sum()) * q_max
    for i in range(depth):
        step = min(left // q_max, 127 - int(weights[i]))
        weights[i] += step
        left -= step * q_max
    graph = single(sign * weights.reshape(1, depth, 1, 1), q_max, accumulator=NAMED["int16"], multiplier=2.0**-8)
    codes = np.full((1, depth, 1, 1), q_max)
    images = codes_to_images(codes, graph)
    for mode in MODES:
        check(graph, images, mode, isa)
    reached = int(weights.sum()) * q_max
    assert (Engine(graph, images.shape[1:], isa=isa).routes[0].sums == (WHOLE,)) == (reached <= limit)


@pytest.mark.parametrize("isa", ISAS)
def test_pairs_that_saturate_take_the_exact_route(isa):
    graph = single(np.full((3, 8, 1, 1), 127))
    images = codes_to_images(np.full((1, 8, 2, 2), 255), graph)
    engine = check(graph, images, "acc32", isa)
    assert engine.routes[0].sums == (EXACT,)
    safe = single(np.full((3, 8, 1, 1), 64))
    assert check(safe, images, "acc32", isa).routes[0].sums == (folded(1),)


@pytest.mark.parametrize("isa", ISAS)
def test_blocks_grow_with_the_room_that_the_ranges_leave(isa):
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (16, 256, 1, 1))
    sums = []
    for alpha in (2, 4, 12):
        graph = single(weight // alpha, 255 // alpha)
        images = codes_to_images(rng.integers(0, 255 // alpha + 1, (1, 256, 3, 3)), graph)
        sums.append(check(graph, images, "certified", isa).routes[0].sums[0])
    assert sums[0].fold < sums[1].fold
    assert sums[2] == WHOLE  # the whole sum fits


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_every_fold_of_depthwise_layers(isa, mode):
    rng = np.random.default_rng(0)
    seen = set()
    for largest in (127, 80, 60, 45, 30, 20):
        weight = rng.integers(largest - 3, largest + 1, (70, 1, 3, 3)) * rng.choice([1, 1, 1, -1], (70, 1, 3, 3))
        graph = single(weight, 127, 20, NAMED["int16"], padding=(1, 1), groups=70)
        images = codes_to_images(rng.choice([0, 127, 127], (2, 70, 6, 5)), graph)
        seen |= set(check(graph, images, mode, isa).routes[0].sums)
    if mode == "certified":
        assert {WHOLE, folded(1), folded(2), folded(3)} <= seen


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_depthwise_blocks_pair_their_taps_as_they_can(isa, mode):
    """Two taps of 255 * 120 each; they stand side by side in the first block, apart in the second, and in the third all
    taps are such: then none is added in 16 bits."""
    weight = np.ones((96, 1, 3, 3), int)
    weight[:32, 0, 0, :2] = weight[32:64, 0, 0, ::2] = weight[64:] = 120
    graph = single(weight, 255, 3, NAMED["int16"], padding=(1, 1), groups=96)
    images = codes_to_images(np.random.default_rng(0).choice([0, 255, 255], (2, 96, 6, 5)), graph)
    one, four = folded(1), folded(4)
    expected = {
        "fast": (WHOLE, WHOLE, WHOLE),
        "certified": (four, four, EXACT),
        "acc32": (one, one, EXACT),
        "exact": (EXACT, EXACT, EXACT),
    }
    found = check(graph, images, mode, isa).routes[0]
    assert (found.sums, "32 bit" in found.registers) == (expected[mode], EXACT in expected[mode])


@pytest.mark.parametrize("isa", ISAS)
def test_multipliers_that_leave_int32(isa):
    rng = np.random.default_rng(0)
    graph = single(rng.integers(-127, 128, (5, 40, 3, 3)), bias=-(1 << 30), multiplier=2.0**20, padding=(1, 1))
    images = codes_to_images(rng.integers(0, 256, (1, 40, 4, 4)), graph)
    for mode in MODES:
        assert check(graph, images, mode, isa).routes[0].kind == "reference"


@pytest.mark.parametrize("policy", ["int16_lanes8", "int16_block", "pair_saturating"])
def test_other_accumulators_are_emulated_only_where_they_can_overflow(policy):
    rng = np.random.default_rng(0)
    images = None
    for largest, kind in ((127, "reference"), (1, "dense")):
        weight = np.full((4, 64, 3, 3), largest)
        graph = single(weight, 255, accumulator=NAMED[policy])
        images = codes_to_images(rng.integers(200, 256, (1, 64, 4, 4)), graph)
        assert check(graph, images, "fast", None).routes[0].kind == kind


def test_threads_change_nothing():
    for seed in range(20):
        graph, shape = random_graph(seed)
        images = random_images(np.random.default_rng(seed), 3, shape)
        one, many = (Engine(graph, shape, threads).run(images) for threads in (1, 4))
        for a, b in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, b)


def test_explain_names_every_layer_its_route_and_the_reason():
    graph = single(np.full((3, 8, 1, 1), 64), accumulator=NAMED["int16"])
    text = Engine(graph, (8, 2, 2), mode="fast").explain()
    assert "layer" in text and "empirical" in text and "int16" in text and "mode fast" in text


def test_the_environment_forces_an_instruction_set(monkeypatch):
    graph = single(np.full((3, 8, 1, 1), 64))
    monkeypatch.setenv("OAQ_ISA", "portable")
    assert Engine(graph, (8, 2, 2)).isa == "portable"
    monkeypatch.setenv("OAQ_ISA", "mmx")
    with pytest.raises(InputError, match="OAQ_ISA: found 'mmx', expected one of"):
        Engine(graph, (8, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (8, 2)}, "input_shape"),
        ({"input_shape": (7, 2, 2)}, "8 channels"),
        ({"threads": 0}, "threads"),
        ({"mode": "quick"}, "mode: found 'quick'"),
        ({"input_shape": (8, 60000, 60000)}, "2\\^27"),
    ],
)
def test_bad_arguments(arguments, message):
    graph = single(np.full((3, 8, 1, 1), 64))
    with pytest.raises(InputError, match=message):
        Engine(graph, **{"input_shape": (8, 2, 2), **arguments})


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 2, 3), np.float32),
        np.zeros((1, 8, 2), np.float32),
        np.zeros((1, 1, 8, 2, 2), np.float32),
        np.zeros((1, 8, 2, 2)),
        np.full((1, 8, 2, 2), np.nan, np.float32),
        [[1.0]],
    ],
)
def test_bad_images(images):
    engine = Engine(single(np.full((3, 8, 1, 1), 64)), (8, 2, 2))
    with pytest.raises(InputError, match="images: found"):
        engine.run(images)
    with pytest.raises(InputError, match="image: found"):
        engine.profile(images[0])


@pytest.mark.parametrize("repeats", [0, -1, True, 1.5, "3", None, 10**9])
def test_bad_repeats(repeats):
    engine = Engine(single(np.full((3, 8, 1, 1), 64)), (8, 2, 2))
    with pytest.raises(InputError, match="repeats: found .*, expected an integer from 1 to"):
        engine.profile(np.zeros((8, 2, 2), np.float32), repeats)


def test_values_are_kept_only_where_asked_for():
    graph = single(np.full((3, 8, 1, 1), 64))
    with pytest.raises(InputError, match="trace"):
        Engine(graph, (8, 2, 2)).value("layer")


def test_profile_names_every_node():
    for seed in range(30):
        graph, shape = random_graph(seed)
        image = random_images(np.random.default_rng(seed), 1, shape)[0]
        means = Engine(graph, shape, mode=MODES[seed % 4]).profile(image, repeats=2)
        assert list(means) == [node.name for node in graph.nodes]
        assert all(value >= 0 for value in means.values())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["int32", "int16", "int16_lanes8"])
@pytest.mark.parametrize(
    "groups, outputs, channels", [(4, 16, 8), (4, 4, 8), (4, 4, 4), (2, 66, 6), (3, 51, 9), (1, 16, 8)]
)
def test_a_layer_is_one_step_whatever_its_groups(groups, outputs, channels, policy, mode, isa):
    """Groups of several panels, some of them exact; one channel of border on every side of what they write."""
    rng = np.random.default_rng(groups)
    weight = rng.choice([-127, 127, 3], (outputs, channels // groups, 3, 3))
    weight[: outputs // 2] //= 40
    graph = single(weight, 255, 7, NAMED[policy], padding=(1, 1), groups=groups)
    again = replace(graph.nodes[1], name="again", inputs=("layer",), weight=np.ones((outputs, 1, 3, 3), np.int8))
    again = replace(again, groups=outputs, accumulator=INT32)
    graph = replace(graph, nodes=(*graph.nodes[:2], again, Dequantize("y", ("again",))))
    images = codes_to_images(rng.integers(0, 256, (2, channels, 9, 7)), graph)
    engine = check(graph, images, mode, isa, threads=1 + groups % 2)
    assert list(engine.profile(images[0], 2)) == ["x", "layer", "again", "y"]


def test_an_output_that_is_asked_for_twice_and_one_that_is_not():
    graph = single(np.full((3, 8, 1, 1), 64))
    graph = replace(graph, nodes=(*graph.nodes, Dequantize("unused", ("x",))), outputs=("y", "y"))
    images = codes_to_images(np.full((1, 8, 2, 2), 9), graph)
    assert list(check(graph, images, "fast", None).profile(images[0])) == ["x", "layer", "y", "unused"]


def test_an_operator_that_the_engine_does_not_have_is_an_error():
    """As one that has been added to the graph, and not yet to the compiler."""

    @dataclass(frozen=True, eq=False)
    class Softmax(CodeNode):
        def reference(self, inputs, sources):
            return inputs[0]

    graph, sizes = single(np.full((3, 8, 1, 1), 64)), (8, 2, 2)
    new = Softmax("new", ("x",), graph.qparams("x"))
    graph = replace(graph, nodes=(graph.nodes[0], new, Dequantize("y", ("new",))))
    shapes = {"image": sizes, "x": sizes, "new": sizes, "y": sizes}
    placed, arena = place(graph, shapes, share=True)
    program = _kernels.Program(arena, 1, InstructionSet.selected().isa)
    with pytest.raises(InputError, match="graph node 'new': found Softmax, which the engine does not have"):
        compile_graph(program, Ordered(graph, {}, {}), placed, Permits.of("fast"), InstructionSet.selected(), {})


def test_a_value_that_nobody_reads_does_no_harm():
    graph = single(np.full((3, 8, 1, 1), 64))
    unread = replace(graph.nodes[1], name="unread")
    graph = replace(graph, nodes=(graph.nodes[0], unread, *graph.nodes[1:]))
    check(graph, codes_to_images(np.full((1, 8, 2, 2), 9), graph), "certified", None)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("outputs", [16, 17, 32, 33, 48, 49, 64])
@pytest.mark.parametrize("groups", ["dense", "depthwise"])
@pytest.mark.parametrize("bias", BIASES)
def test_panels_side_by_side_and_large_biases(isa, outputs, groups, bias):
    rng = np.random.default_rng(outputs)
    channels, groups = (7, 1) if groups == "dense" else (outputs, outputs)
    graph = single(
        rng.integers(-90, 91, (outputs, channels // groups, 3, 3)), 150, 9, NAMED["int16"], padding=(1, 1),
        groups=groups, bias=bias, multiplier=2.0**-10 if abs(bias) < 10**6 else 2.0**-14,
        out=QParams(np.float32(0.5), 255, 255),
    )  # fmt: skip
    images = codes_to_images(rng.choice([0, 150, 150, 75], (1, channels, 5, 5)), graph)
    engine = check(graph, images, "fast", isa)
    assert (WHOLE in engine.routes[0].sums) == (abs(bias) <= LARGEST_BIAS)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 40])
def test_a_function_after_a_layer_takes_no_pass_of_its_own(isa, mode, groups):
    rng = np.random.default_rng(groups)
    graph = single(rng.integers(-60, 61, (40, 40 // groups, 3, 3)), groups=groups, padding=(1, 1))
    q = replace(graph.qparams("layer"), q_max=200)
    layer = replace(graph.nodes[1], output=q)
    table = rng.integers(0, 201, 256).astype(np.uint8)
    after = Elementwise("after", ("layer",), q, table)
    again = replace(layer, name="again", inputs=("after",))  # reads it with a border
    alone = (graph.nodes[0], layer, after, again, Dequantize("y", ("again",)))
    both = (*alone[:-1], Dequantize("y", ("again",)), Dequantize("z", ("layer",)))  # here others read the layer too
    images = rng.normal(scale=200, size=(2, 40, 9, 7)).astype(np.float32)
    for nodes, outputs in ((alone, ("y",)), (both, ("y", "z"))):
        fused = Graph("image", nodes, outputs)
        shapes = fused.shapes((40, 9, 7))
        assert ("layer" in place(fused, shapes, share=True)[0]) == (len(outputs) == 2)
        assert "layer" in place(fused, shapes, share=False)[0]
        for threads in (1, 2):
            engine = check(fused, images, mode, isa, threads=threads)
            assert list(engine.profile(images[0])) == [node.name for node in nodes]
