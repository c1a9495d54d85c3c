"""Graphs: validation, shapes, files."""

import io
import json
import pickle
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest
from oracles.reference import around, conv, linear, q, small_network

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.graph import file as graph_file


def one_conv(**changes) -> ir.Graph:
    node = conv("c", "x", q(), q(), np.full((4, 3, 1, 1), 9))  # which 4 bits do not hold: a byte each in files
    return around(replace(node, **changes), source=q())


def assert_equal(a: ir.Graph, b: ir.Graph) -> None:
    assert (a.input_name, a.outputs) == (b.input_name, b.outputs)
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert type(x) is type(y)
        for field in fields(x):
            left, right = getattr(x, field.name), getattr(y, field.name)
            if isinstance(left, np.ndarray):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)
            else:
                assert left == right and type(left) is type(right)


def test_save_and_load(tmp_path):
    graph = small_network(accumulator=Accumulator(bits=14, lanes=4)).graph
    graph = replace(graph, nodes=tuple(
        replace(n, accumulator_reason="first layer") if n.name == "stem" else n for n in graph.nodes
    ))  # fmt: skip
    assert graph.save(tmp_path / "net.npz") == tmp_path / "net.npz"
    assert_equal(ir.Graph.load(tmp_path / "net.npz"), graph)
    assert [p.name for p in tmp_path.iterdir()] == ["net.npz"]


def test_save_refuses_a_bad_graph_and_keeps_the_old_file(tmp_path):
    path = one_conv().save(tmp_path / "net.npz")
    before = path.read_bytes()
    with pytest.raises(InputError):
        one_conv(groups=5).save(path)
    assert path.read_bytes() == before


def test_layers_nodes_and_accumulators():
    graph = small_network().graph
    assert [n.name for n in graph.layers()] == ["stem", "depthwise", "project", "dilated", "classifier"]
    narrow = graph.with_accumulator(NAMED["int16_lanes8"])
    assert {n.accumulator for n in narrow.layers()} == {NAMED["int16_lanes8"]}
    assert {n.accumulator for n in graph.layers()} == {Accumulator(bits=32)}
    assert graph.qparams("relu") == q(0.06, 0, 85)
    assert graph.node("stem").weight.shape == (8, 3, 3, 3)
    for name in ("nothing", "classifier.out"):
        with pytest.raises(InputError, match=name):
            graph.qparams(name)


def test_matrix_is_in_the_accumulators_order():
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix = conv("c", "x", q(), q(), weight).matrix
    for k, (row, column, channel) in enumerate(np.ndindex(2, 2, 3)):
        assert matrix[1, k] == weight[1, channel, row, column]


def test_shapes():
    shapes = small_network().graph.shapes((3, 16, 12))
    assert shapes["stem"] == (8, 8, 6) and shapes["pool"] == (8, 4, 3) and shapes["resize"] == (6, 8, 6)
    assert shapes["concat"] == (22, 8, 6) and shapes["gap"] == (22, 1, 1) and shapes["classifier.out"] == (5,)


@pytest.mark.parametrize("shape", [(4, 16, 12), (3, 2), (3, 16, 12, 1), (3, 1, 1)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(InputError, match=r"graph node '\w+': found an input"):
        small_network().graph.shapes(shape)


NAN = np.full(4, np.nan, np.float32)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": ""}, "name"),
        ({"name": "x"}, "found twice"),
        ({"name": "image"}, "found twice"),
        ({"inputs": ("later",)}, "inputs.*'later'.*earlier node"),
        ({"inputs": ("image",)}, "inputs"),
        ({"inputs": ()}, "inputs"),
        ({"inputs": ("x", "x")}, "inputs.*1 names"),
        ({"inputs": "x"}, "inputs"),
        ({"weight": np.ones((4, 3, 1, 1), np.int16)}, "weight: found int16.*expected int8"),
        ({"weight": np.ones((4, 3), np.int8)}, r"weight: found int8 \[4, 3\]"),
        ({"weight": np.ones((4, 0, 1, 1), np.int8)}, "not empty"),
        ({"weight": [[1]]}, "weight: found list"),
        ({"bias": np.zeros(4, np.int64)}, "bias"),
        ({"bias": np.zeros(3, np.int32)}, r"bias: found int32 \[3\], expected int32 \[4\]"),
        ({"multiplier": NAN}, "multiplier"),
        ({"multiplier": np.zeros(4, np.float32)}, "multiplier"),
        ({"multiplier": np.full(4, 0.02, np.float32)}, "multiplier: found another value"),
        ({"weight_scale": -np.ones(4, np.float32)}, "weight_scale"),
        ({"stride": (0, 1)}, "stride"),
        ({"stride": [1, 1]}, "stride"),
        ({"stride": (1, True)}, "stride"),
        ({"padding": (0, -1)}, "padding"),
        ({"padding": (0, 1 << 40)}, "padding"),
        ({"dilation": (1, 1, 1)}, "dilation"),
        ({"groups": 3}, "groups: found 3, expected a divisor of the 4"),
        ({"accumulator": "int16"}, "accumulator"),
        ({"accumulator_reason": None}, "accumulator_reason"),
        ({"output": q(zero_point=256)}, "zero_point"),
        ({"output": q(zero_point=5, q_max=4)}, "zero_point"),
        ({"output": q(q_max=256)}, "q_max"),
        ({"output": q(scale=float("nan"))}, "scale"),
        ({"output": q(scale=-1.0)}, "scale"),
        ({"output": q(scale=0.0)}, "scale"),
        ({"output": ir.QParams(1.0, 0, 255)}, "float32 scale"),
    ],
)
def test_validate_names_node_and_field(changes, message):
    with pytest.raises(InputError, match=message):
        one_conv(**changes).validate()


@pytest.mark.parametrize(
    "graph, message",
    [
        (around(ir.MaxPool("p", ("x",), q(0.5), (2, 2), (2, 2)), source=q()), "output: found .*expected its input's"),
        (around(ir.MaxPool("p", ("x",), q(), (2, 2), (2, 2), padding=(2, 2)), source=q()), "padding"),
        (around(ir.ResizeNearest("p", ("x",), q(), (2, 1)), source=q()), "factor: found"),
        (around(ir.ResizeNearest("p", ("x",), q(), (2, 0, 1, 1)), source=q()), "factor: found"),
        (around(ir.ResizeNearest("p", ("x",), q(), (1, 1, 1, 1), "ceil"), source=q()), "rule: found 'ceil'"),
        (around(ir.AvgPool("p", ("x",), q(), (3, 3), (2, 2), (2, 2)), source=q()), "padding"),
        (around(ir.Concat("j", ("x", "x"), q(), axis=2), source=q()), "axis"),
        (around(ir.Concat("j", (), q()), source=q()), "inputs"),
        (around(ir.Flatten("f", ("x",), q(), start_dim=0), source=q()), "start_dim"),
        (around(ir.GlobalAvgPool("g", ("x",), q(), keepdims=1), source=q()), "keepdims"),
        (
            around(ir.Elementwise("e", ("x",), q(), np.zeros(255, np.uint8)), source=q()),
            r"table: .*expected uint8 \[256\]",
        ),
        (
            around(ir.Elementwise("e", ("x",), q(), np.zeros(256, np.int8)), source=q()),
            r"table: .*expected uint8 \[256\]",
        ),
        (
            around(ir.Elementwise("e", ("x",), q(q_max=9), np.full(256, 10, np.uint8)), source=q()),
            "table: found 10, expected at most q_max",
        ),
        (around(ir.Multiply("m", ("x", "x"), q(2.0**-60)), source=q(2.0**60)), "output: .*multiplier is finite"),
        (around(ir.Select("s", ("x",), q(), np.array([0, -1])), source=q()), "channels: found 2 from -1 on"),
        (around(ir.Select("s", ("x",), q(), np.zeros(0, np.int64)), source=q()), "channels: .*not empty"),
        (around(ir.Select("s", ("x",), q(0.5), np.array([0])), source=q()), "output: found .*expected its input's"),
        (ir.Graph("image", around(source=q()).nodes, ()), "outputs"),
        (ir.Graph("image", around(source=q()).nodes, ("x",)), "outputs.*Dequantize"),
        (ir.Graph("image", around(source=q()).nodes, ("nothing",)), "outputs"),
        (ir.Graph("image", around(source=q()).nodes, ([],)), "outputs"),
        (ir.Graph("", around(source=q()).nodes, ("x.out",)), "input_name"),
        (ir.Graph("image", (*around(source=q()).nodes, "node"), ("x.out",)), "node of type str"),
        (ir.Graph("image", list(around(source=q()).nodes), ("x.out",)), "tuples"),
        (around(ir.Add("a", ("x", "x.out"), q()), source=q()), "inputs"),
    ],
)
def test_validate_graphs(graph, message):
    with pytest.raises(InputError, match=message):
        graph.validate()


def test_float_values_are_no_inputs():
    nodes = (*around(source=q()).nodes, ir.Requantize("r", ("x.out",), q()), ir.Dequantize("o", ("r",)))
    with pytest.raises(InputError, match="a float value"):
        ir.Graph("image", nodes, ("o",)).validate()


@pytest.mark.parametrize(
    "nodes, shape, message",
    [
        ([ir.Add("n", ("x", "p"), q())], (2, 4, 4), "two equal shapes"),
        ([ir.Concat("n", ("x", "p"), q())], (2, 4, 4), "differ in channels"),
        ([ir.Multiply("n", ("x", "p"), q())], (2, 4, 4), r"\[C, H, W\] and \[C, 1, 1\]"),
        ([ir.Select("n", ("x",), q(), np.array([2]))], (2, 4, 4), "at least 3 channels"),
        ([linear("n", "x", q(), q(), np.ones((2, 3)))], (3, 4, 4), r"expected \[3\]"),
        ([conv("n", "p", q(), q(), np.ones((1, 2, 3, 3)))], (2, 4, 4), "hold the kernel"),
        ([conv("n", "p", q(), q(), np.ones((1, 1, 3, 3)))], (2, 8, 8), "1 channels"),
        (
            [conv("n", "p", q(), q(), np.ones((1, 2, 1, 1)), padding=(1 << 20, 1 << 20))],
            (2, 8, 8),
            "elements with padding",
        ),
        ([ir.AvgPool("n", ("x",), q(), (5, 5), (1, 1))], (2, 4, 4), "hold the kernel"),
        ([ir.Flatten("f", ("x",), q()), ir.GlobalAvgPool("n", ("f",), q(), True)], (2, 4, 4), "channels, height"),
        ([ir.GlobalAvgPool("n", ("x",), q(), True)], (1, 5000, 5000), "pixels"),
    ],
)
def test_shape_messages(nodes, shape, message):
    pool = ir.MaxPool("p", ("x",), q(), (2, 2), (2, 2))
    with pytest.raises(InputError, match=message):
        around(pool, *nodes, source=q()).shapes(shape)


# files -----------------------------------------------------------------------------------------------------------


def rewritten(path, change) -> None:
    """Apply `change(header, arrays)` to a stored graph."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)


def set_in(key, value):
    def change(header, arrays):
        header["nodes"][1][key] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (set_in("op", "Softmax"), r"node 1 \('c'\): op: found 'Softmax'.*expected one of.*Conv"),
        (set_in("op", None), "op"),
        (set_in("surprise", 1), "found the field 'surprise'"),
        (set_in("inputs_count", 3), "found the field 'inputs_count'"),
        (set_in("stride", [1]), "stride"),
        (set_in("stride", 10**400), "stride"),
        (set_in("stride", {}), "stride"),
        (set_in("groups", True), "groups"),
        (set_in("name", ["c"]), "name"),
        (set_in("inputs", [["x"]]), "inputs"),
        (set_in("output", {"scale": 1.0}), "output"),
        (set_in("output", {"scale": "1", "zero_point": 0, "q_max": 255}), "scale"),
        (set_in("output", {"scale": 1e300, "zero_point": 0, "q_max": 255}), "scale"),
        (set_in("output", {"scale": 10**400, "zero_point": 0, "q_max": 255}), "scale"),
        (set_in("output", {"scale": float("nan"), "zero_point": 0, "q_max": 255}), "scale"),
        (set_in("output", {"scale": 1.0, "zero_point": [], "q_max": 255}), "zero_point"),
        (set_in("accumulator", {"bits": 64}), "accumulator.bits"),
        (set_in("accumulator", {"pits": 16}), "accumulator"),
        (set_in("accumulator", 16), "accumulator"),
        (lambda h, a: h["nodes"][1].pop("stride"), "stride: missing"),
        (lambda h, a: h["nodes"].append(7), "node 3"),
        (lambda h, a: h["nodes"].append({"op": "Add", "name": "s", "inputs": ["x", "x"]}), "output: missing"),
        (lambda h, a: a.pop("1.weight"), "weight: found no array"),
        (lambda h, a: a.update({"1.weight": a["1.weight"].astype(np.float32)}), "weight: found float32"),
        (lambda h, a: a.update({"1.weight": a["1.weight"][:3]}), "bias"),
        (lambda h, a: a.update({"9.weight": a["1.weight"]}), "'9.weight'"),
        (lambda h, a: h.update(format="other"), "format: found 'other'"),
        (lambda h, a: h.update(extra=1), "keys"),
        (lambda h, a: h.update(nodes={}), "lists"),
        (lambda h, a: h.update(outputs=[{}]), "outputs"),
        (lambda h, a: h.update(input_name=3), "input_name"),
    ],
)
def test_load_names_what_is_wrong(tmp_path, change, message):
    path = one_conv().save(tmp_path / "net.npz")
    rewritten(path, change)
    with pytest.raises(InputError, match=message) as error:
        ir.Graph.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_load_of_no_file(tmp_path):
    for path in (tmp_path / "absent.npz", tmp_path):
        with pytest.raises(InputError, match=path.name):
            ir.Graph.load(path)


def test_every_truncation_and_many_damages_are_input_errors(tmp_path):
    content = one_conv().save(tmp_path / "net.npz").read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:length] for length in range(0, len(content), 37)]
    for _ in range(300):
        bad = bytearray(content)
        for position in rng.integers(0, len(bad), 3):
            bad[position] = rng.integers(256)
        damaged.append(bytes(bad))
    path = tmp_path / "bad.npz"
    loaded = 0
    for bad in damaged:
        path.write_bytes(bad)
        try:
            ir.Graph.load(path).validate()
            loaded += 1  # damage to what nobody reads, such as time stamps
        except InputError:
            pass
    assert loaded < 200


class Bomb:
    """Leaves a trace when unpickled."""

    def __reduce__(self):
        return (exec, ("import builtins; builtins.oaq_bomb = True",))


def test_pickles_are_never_opened(tmp_path):
    import builtins

    path = tmp_path / "net.npz"
    for name in ("header", "1.weight"):
        one_conv().save(path)
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files}
        np.savez(path, **(arrays | {name: np.array([Bomb()], object)}))
        with pytest.raises(InputError):
            ir.Graph.load(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError):
        ir.Graph.load(path)
    assert not hasattr(builtins, "oaq_bomb")


def test_zip_bombs_and_foreign_members_are_refused(tmp_path):
    path = tmp_path / "net.npz"
    np.savez_compressed(path, header=np.zeros(10**6, np.uint8))
    with pytest.raises(InputError, match="compressed"):
        ir.Graph.load(path)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<i4", "fortran_order": False, "shape": (10**13,)})
    for name in ("header.npy", "readme.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, huge.getvalue())
        with pytest.raises(InputError):
            ir.Graph.load(path)


def test_padding_of_two_numbers_is_that_of_both_ends_in_files_too():
    graph = one_conv(padding=(2, 1))
    assert graph.node("c").padding == (2, 1, 2, 1)
    header, arrays = graph_file.to_header(graph.input_name, graph.nodes, graph.outputs)
    header["nodes"][1]["padding"] = [2, 1]  # as versions before four numbers wrote it
    assert_equal(ir.Graph(*graph_file.from_header(header, arrays)), graph)


def test_padding_may_differ_at_the_ends(tmp_path):
    graph = one_conv(padding=(0, 1, 2, 3))
    assert graph.shapes((3, 5, 6))["c"] == (4, 7, 10)
    assert_equal(ir.Graph.load(graph.save(tmp_path / "net.npz")), graph)


@pytest.mark.parametrize("padding", [(1, 1, 1), (0, 0, 0, -1), (0, 0, True, 0), [1, 1, 1, 1], None])
def test_other_paddings_are_errors(padding):
    with pytest.raises(InputError, match="padding: found .*expected two or four integers"):
        one_conv(padding=padding).validate()


@pytest.mark.parametrize(
    "inputs, factor, message",
    [
        (("x", "x"), (2, 1, 2, 1), "inputs: found .*one with it"),
        (("x",), None, "inputs: found .*two without a factor"),
        (("x",), (2, 1), "factor: found"),
        (("x",), (0, 1, 1, 1), "factor: found"),
    ],
)
def test_a_resize_has_a_factor_or_a_value_of_its_size(inputs, factor, message):
    with pytest.raises(InputError, match=message):
        around(ir.Resize("p", inputs, q(), False, factor), source=q()).validate()
    graph = around(ir.Resize("p", ("x",), q(), False, (3, 2, 1, 2)), source=q())
    assert graph.shapes((3, 4, 6))["p"] == (3, 6, 3)
