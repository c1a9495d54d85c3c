"""Nothing of a foreign model is passed over in silence, and nothing of it can ask for memory or time without end."""

import resource
import time
from functools import cache

import numpy as np
import onnx
import pytest
from integer.onnx.test_import_operators import QLINEAR, after_conv, assert_as_onnxruntime, imported, qlinear
from onnx import TensorProto, helper
from oracles import onnx_models
from oracles.onnx_models import model, node, qcdq_network, small_qdq
from oracles.onnx_mutants import mutant

from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.onnx.import_operators import CONVERTERS
from oaq_repro.integer.onnx.importer import import_onnx, import_with_shape
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

F32 = np.float32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def refused(path, content: onnx.ModelProto, message: str) -> None:
    with pytest.raises(InputError, match=message):
        imported(path, content)


def test_the_type_of_codes_without_a_zero_point(path):
    """QuantizeLinear has `output_dtype` from opset 21 on: int8 codes of a ReLU are not uint8 codes."""
    nodes, constants = small_qdq(out_zero_point=np.int8(0), so=F32(0.2137))
    nodes[5] = node("QuantizeLinear", ["c", "so"], "q", output_dtype=TensorProto.INT8)
    graph = assert_as_onnxruntime(path, model(nodes, constants, opset=21))
    assert graph.layers()[0].output.zero_point == 128
    nodes[5] = node("QuantizeLinear", ["c", "so"], "q", output_dtype=TensorProto.INT16)
    refused(path, model(nodes, constants, opset=21), "output_dtype: found INT16, expected UINT8 or INT8")
    nodes[5] = node("QuantizeLinear", ["c", "so", "zo"], "q", output_dtype=TensorProto.UINT8)
    refused(path, model(nodes, constants, opset=21), "output_dtype: found UINT8, expected that of the zero point")


UNREAD = {
    "three inputs": (node("Max", ["y", "half", "one"], "p"), r"p\.Max.*'one': found an input number 3"),
    "NaN": (node("Max", ["y", "nan"], "p"), r"p\.Max.*'nan': found NaN"),
    "NaN bound": (node("Clip", ["y", "nan"], "p"), r"p\.Clip.*'nan': found NaN"),
    "rank": (node("Max", ["y", "deep"], "p"), r"p\.Max.*'deep'.*at most 1 dimensions"),
    "type": (node("Max", ["y", "five"], "p"), r"p\.Max.*'five'.*float32"),
    "two values": (node("Max", ["y", "y"], "p"), r"p\.Max.*'y': expected a constant"),
    "aspect": (node("Resize", ["y", "", "", "sizes"], "p", keep_aspect_ratio_policy="not_larger"),
               "keep_aspect_ratio_policy: found a value that is not supported, expected 'stretch'"),
    "axes": (node("Resize", ["y", "", "scales"], "p", axes=[2, 1]), r"axes: found \[2, 1\]"),
    "scale of channels": (node("Resize", ["y", "", "swapped"], "p", axes=[3, 2, 1, 0]), "more than height and width"),
    "cubic": (node("Resize", ["y", "", "scales"], "p", mode="cubic", axes=[2, 3]), "found 'cubic'"),
    "excluded": (node("Resize", ["y", "", "scales"], "p", exclude_outside=1, axes=[2, 3]), "exclude_outside"),
    "training": (node("Dropout", ["y", "", "true"], "p"), "training_mode: found true"),
    "saturate": (node("QuantizeLinear", ["y", "so", "zo"], "aq", saturate=0), "saturate: found a value"),
    "storage": (node("MaxPool", ["y"], "p", kernel_shape=[2, 2], storage_order=1), "storage_order: found a value"),
    "unknown": (node("MaxPool", ["y"], "p", kernel_shape=[2, 2], odd=1), "odd: found an attribute that the operator"),
    "too new": (node("QuantizeLinear", ["y", "so", "zo"], "aq", precision=1), "precision: found an attribute .* 19"),
    "required": (node("MaxPool", ["y"], "p"), "kernel_shape: missing"),
    "flag": (node("AveragePool", ["y"], "p", kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=2),
             "expected 0 or 1"),
    "noop": (node("ReduceMean", ["y", "hw"], "p", noop_with_empty_axes=1), "noop_with_empty_axes"),
    "inputs": (node("Relu", ["y", "y"], "p"), "inputs: found 2, expected 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_is_refused(path, name):
    made, message = UNREAD[name]
    after = [] if made.output[0] == "p" else [node("DequantizeLinear", [made.output[0], "so", "zo"], "p")]
    constants = {
        "half": F32(0.5), "one": F32(1), "nan": F32(np.nan), "deep": np.zeros((1, 1, 1, 1, 1), F32),
        "five": np.int64(5), "sizes": np.array([1, 4, 32, 24]), "scales": np.array([2, 2], F32), "true": np.bool_(True),
        "swapped": np.array([1, 2, 2, 1], F32), "hw": np.array([2, 3]),
    }  # fmt: skip
    refused(path, after_conv(made, *after, **constants), message)


def test_attributes_that_do_nothing_may_be_there(path):
    """Defaults that somebody wrote out, and those that play no part."""
    nodes = [
        node("Dropout", ["y", "half", "false"], "d", seed=7),
        node("MaxPool", ["d"], "m", kernel_shape=[2, 2], storage_order=0, auto_pad="NOTSET"),
        node("Resize", ["m", "", "scales"], "p", cubic_coeff_a=-0.75, keep_aspect_ratio_policy="stretch"),
    ]
    constants = {"half": F32(0.5), "false": np.bool_(False), "scales": np.array([1, 1, 2, 2], F32)}
    assert_as_onnxruntime(path, after_conv(*nodes, **constants))


def test_an_attribute_twice(path):
    content = model(*small_qdq())
    content.graph.node[4].attribute.append(helper.make_attribute("pads", [0] * 4))
    refused(path, content, "found an attribute twice")


@pytest.mark.parametrize("opset", [24, 28, 1000])
def test_unknown_opsets(path, opset):
    refused(path, model(*small_qdq(), opset=opset), f"opset: found {opset}, expected at most 23")


def test_every_operator_of_onnx_is_checked():
    """Of each, an attribute that no version has is refused before anything is converted."""
    for op in CONVERTERS:
        if not op.startswith("com.microsoft."):
            assert onnx.defs.get_schema(op, 23, "").name == op


@pytest.mark.parametrize(
    "content, message",
    [
        (onnx_models.float_network(), "found no QuantizeLinear; this is not a statically quantized model"),
        (model([node("DynamicQuantizeLinear", ["x"], "q"), node("DequantizeLinear", ["q", "s", "z"], "y")],
               {"s": F32(1), "z": np.uint8(0)}), "found DynamicQuantizeLinear.*not a statically quantized model"),
    ],
)  # fmt: skip
def test_models_that_are_not_quantized_statically(path, content, message):
    refused(path, content, message)


def test_data_types_go_by_their_names(path):
    refused(path, model(*small_qdq(z=np.uint64(0))), "tensor 'z': found data type UINT64, expected FLOAT, UINT8")


def test_names_cannot_move_the_cursor(path):
    content = model(*small_qdq())
    content.graph.node[4].name = "\x1b[2J\r\nconv"
    content.graph.node[4].op_type = "\x1b[31mConv"
    onnx.save(content, path)
    with pytest.raises(InputError) as caught:
        import_onnx(path)
    from oaq_repro.errors import printable

    assert printable(str(caught.value)).isprintable() and r"\x1b[31mConv" in printable(str(caught.value))
    assert printable("a" * 10**6).count("a") == 2000 and printable("blöck\u202e") == "blöck\\u202e"


# --- memory and time -------------------------------------------------------------------------------------------------


def padded_conv(pads: int) -> onnx.ModelProto:
    nodes, constants = small_qdq()
    nodes[4] = node("Conv", ["xd", "wd", "bd"], "c", pads=[pads] * 4)
    return model(nodes, constants)


def doubled(times: int, shape=("N", 3, 16, 16)) -> onnx.ModelProto:
    nodes, constants = small_qdq()
    for at in range(times):
        nodes.append(node("Concat", [f"d{at - 1}" if at else "q"] * 2, f"d{at}", axis=1))
    nodes.append(node("DequantizeLinear", [f"d{times - 1}", "so", "zo"], "out"))
    return model(nodes, constants, shape, ("out",))


def huge_resizes(*scales: float) -> onnx.ModelProto:
    nodes = [node("Resize", [f"r{at}" if at else "y", "", f"k{at}"], f"r{at + 1}") for at in range(len(scales))]
    nodes.append(node("Identity", [f"r{len(scales)}"], "p"))
    return after_conv(*nodes, **{f"k{at}": np.array([1, 1, s, s], F32) for at, s in enumerate(scales)})


HUGE = {
    "pads of 8192": (padded_conv(8192), "elements with padding, expected at most"),
    "pads of 2^20": (padded_conv(2**20), "elements with padding, expected at most"),
    "doubling": (doubled(40), "elements with padding, expected at most"),
    "doubling for ever": (doubled(5000), "elements with padding, expected at most"),
    "one resize": (huge_resizes(1e5), "elements with padding, expected at most"),
    "a resize beyond integers": (huge_resizes(1e30), "found a size of"),
    "resizes": (huge_resizes(*[2.0] * 12), "elements with padding, expected at most"),
    "large kernel": (after_conv(node("MaxPool", ["y"], "p", kernel_shape=[2**20, 2**20], pads=[2**19] * 4)),
                     "a kernel of at most|elements with padding"),
    "nodes": (model([*small_qdq()[0], *(node("Identity", ["y"], f"i{at}") for at in range(20_000))], small_qdq()[1]),
              "found 20007 nodes, expected at most 10000"),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_small_files_cannot_ask_for_much(path, name):
    content, message = HUGE[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, content, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_what_is_not_declared_is_refused_when_it_is_run(path):
    """Images whose size the model leaves open."""
    graph = imported(path, doubled(40, ("N", 3, "H", "W")))
    images = np.zeros((1, 3, 16, 16), F32)
    for run in (lambda: Reference(graph).run(images), lambda: Engine(graph, (3, 16, 16))):
        with pytest.raises(InputError, match="elements with padding, expected at most"):
            run()


def test_weights_that_many_layers_share(path):
    """A file may use its weights again, but not without end."""
    weight = np.zeros((4, 4, 2100, 1), np.int8)
    nodes, constants = small_qdq()
    for at in range(9000):
        nodes += [node("Conv", ["y", "vd"], f"c{at}"), node("QuantizeLinear", [f"c{at}", "so", "zo"], f"q{at}")]
    nodes.insert(0, node("DequantizeLinear", ["v", "vs", "vz"], "vd"))
    content = model(nodes[:9990], constants | {"v": weight, "vs": F32(0.1), "vz": np.uint8(0).astype(np.int8)},
                    shape=("N", 3, "H", "W"))  # fmt: skip
    assert imported(path, content).outputs == ("y",)  # 160 MB: the arrays are shared


def test_many_groups(path):
    """One reference kernel instead of 20,000 packed groups."""
    groups = 20_000
    weight = np.random.default_rng(0).integers(-127, 128, (2 * groups, 1, 1, 1)).astype(np.int8)
    nodes, constants = small_qdq(weight=weight, b=None, bs=None)
    del nodes[3]
    nodes[3] = node("Conv", ["xd", "wd"], "c", group=groups)
    graph = imported(path, model(nodes, constants, shape=("N", groups, 2, 2)))
    images = np.random.default_rng(1).normal(size=(1, groups, 2, 2)).astype(F32)
    start = time.process_time()
    engine = Engine(graph, images.shape[1:])
    np.testing.assert_array_equal(engine.run(images)[0], Reference(graph).run(images).outputs[0])
    assert "more than 1024 groups" in engine.explain()
    assert time.process_time() - start < 5


# --- mutants ---------------------------------------------------------------------------------------------------------


@cache
def bases() -> tuple[onnx.ModelProto, ...]:
    """Models in which ONNX Runtime computes every code as the graph does."""
    clipped = [node("Clip", ["y", "low", "high"], "c1"), node("Max", ["c1", "k"], "c2"), node("Dropout", ["c2"], "p")]
    pooled = [node("Relu", ["y"], "r"), node("MaxPool", ["r"], "p", kernel_shape=[3, 3], pads=[1] * 4, ceil_mode=1)]
    return (
        model(*small_qdq(so=F32(0.2137)), opset=21), qcdq_network(8), qcdq_network(4),
        *(qlinear(*QLINEAR[name][0], **QLINEAR[name][1]) for name in ("conv", "concat", "again")),
        after_conv(*clipped, low=F32(-5.1), high=F32(9.1), k=F32(-4.1)), after_conv(*pooled),
        after_conv(node("Resize", ["y", "", "to"], "p"), to=np.array([1, 1, 2, 2], F32)),
    )  # fmt: skip


def agrees_or_is_refused(path, seed: int) -> bool:
    """Whether ONNX Runtime ran this mutant too; fails for another result than its (but for ties that it computes in
    float)."""
    rng = np.random.default_rng(seed)
    content = mutant(bases()[rng.integers(len(bases()))], rng, int(rng.integers(1, 3)))
    path.write_bytes(content.SerializeToString())
    try:
        graph, shape = import_with_shape(path)
        images = (rng.normal(size=(1, *shape)) * 1.5).astype(F32)
        found, engine = Reference(graph).run(images).outputs, Engine(graph, shape).run(images)
    except InputError:
        return False
    assert isinstance(graph, ir.Graph)
    for a, b in zip(found, engine, strict=True):
        np.testing.assert_array_equal(a, b)
    try:
        expected = run_onnx(path, images)
    except Exception:  # a model that is none: ONNX Runtime has a type for each failure
        return False
    for name, a, b in zip(graph.outputs, found, expected, strict=True):
        off = np.abs(np.rint((a - b) / graph.qparams(graph.node(name).inputs[0]).scale))
        assert off.max() <= 1 and (off > 0).mean() < 0.01, seed
    return True


@pytest.mark.parametrize("part", range(4))
def test_mutants(path, part):
    """No crash, no other result than ONNX Runtime's: an error, or the same codes."""
    assert sum(agrees_or_is_refused(path, seed) for seed in range(100 * part, 100 * part + 100)) > 10
