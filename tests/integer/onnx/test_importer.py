"""Import: our own exports give the same graph back, models of other tools run as ONNX Runtime runs them."""

import json
import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from oracles.onnx_models import model, node, quantized_network, small_qdq
from oracles.random_graphs import random_graph, random_images
from oracles.reference import around, conv, q, small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.graph.file import to_header
from oaq_repro.integer.onnx.exporter import METADATA_KEY, build_model, export_onnx
from oaq_repro.integer.onnx.importer import import_onnx, import_with_shape
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

F32 = np.float32
IMAGES = (np.random.default_rng(3).normal(size=(4, 3, 16, 16)) * 1.5).astype(F32)


def assert_same_graph(a: ir.Graph, b: ir.Graph) -> None:
    (header_a, arrays_a), (header_b, arrays_b) = (to_header(g.input_name, g.nodes, g.outputs) for g in (a, b))
    assert header_a == header_b and arrays_a.keys() == arrays_b.keys()
    for name, values in arrays_a.items():
        assert values.dtype == arrays_b[name].dtype
        np.testing.assert_array_equal(values, arrays_b[name], err_msg=name)


def imported(path, content: onnx.ModelProto) -> ir.Graph:
    onnx.save(content, path)
    return import_onnx(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def assert_as_onnxruntime(path, content: onnx.ModelProto, images=IMAGES) -> ir.Graph:
    """Equal to the last bit."""
    graph = imported(path, content)
    found = Reference(graph).run(images).outputs
    for a, b in zip(found, run_onnx(path, images), strict=True):
        assert len(np.unique(b)) > 3
        np.testing.assert_array_equal(a, b)
    return graph


def test_round_trip_of_random_graphs(path):
    for seed in range(150):
        graph, shape = random_graph(seed)
        found, found_shape = import_with_shape(export_onnx(graph, shape, path))
        assert_same_graph(found, graph)
        assert found_shape == shape


def without_metadata(graph, shape) -> onnx.ModelProto:
    content = build_model(graph, shape)
    del content.metadata_props[:]
    return content


def test_exports_without_metadata_are_read_like_any_model(path):
    """Products, tables, pools by average, resizes and transposed convolutions have no form in standard QDQ that is
    exact; the rest gives the same numbers."""
    equal = 0
    for seed in range(600):
        graph, shape = random_graph(seed)
        graph = graph.with_accumulator(NAMED["int32"])
        integer = ir.AvgPool | ir.Elementwise | ir.GlobalAvgPool | ir.Multiply | ir.Resize | ir.ResizeNearest
        integer = integer | ir.ConvTranspose
        if any(isinstance(n, integer) for n in graph.nodes):
            continue
        if any(isinstance(n, ir.MaxPool) and (n.ceil_mode or max(n.padding) >= min(n.kernel)) for n in graph.nodes):
            continue
        found = imported(path, without_metadata(graph, shape))
        images = random_images(np.random.default_rng(seed), 2, shape)
        for a, b in zip(Reference(found).run(images).outputs, Reference(graph).run(images).outputs, strict=True):
            np.testing.assert_array_equal(a, b)
        equal += 1
    assert equal > 20


def test_a_changed_export_is_what_its_nodes_say(path):
    source = q(0.03, 7, 250)
    node = conv("c", "x", source, q(0.5, 100), np.full((2, 3, 1, 1), 50), accumulator=NAMED["int16"])
    graph = around(node, source=source)
    content = build_model(graph, (3, 16, 16))
    for tensor in content.graph.initializer:
        if tensor.name == "c/weight":
            tensor.CopyFrom(numpy_helper.from_array(np.full((2, 3, 1, 1), -20, np.int8), tensor.name))
    found = imported(path, content)
    assert (found.layers()[0].weight == -20).all()
    # a weight is a constant that the metadata refer to: the accumulator is still known
    assert found.layers()[0].accumulator == NAMED["int16"]
    content.graph.node[-1].op_type, content.graph.node[-1].name = "DequantizeLinear", "renamed"
    assert imported(path, content).layers()[0].accumulator == NAMED["int32"]


def test_metadata_may_say_the_same_in_other_words(path):
    """As another version would: keys in another order, and what is default left out."""
    case = small_network(accumulator=NAMED["int16"])
    content = build_model(case.graph, (3, 16, 12))
    header = json.loads(content.metadata_props[0].value)
    for entry in header["nodes"]:
        assert entry.pop("accumulator_reason", "") == ""
    header["nodes"] = [dict(sorted(entry.items(), reverse=True)) for entry in header["nodes"]]
    content.metadata_props[0].value = json.dumps(header)
    found = imported(path, content)
    assert [layer.accumulator for layer in found.layers()] == [layer.accumulator for layer in case.graph.layers()]
    assert build_model(found, (3, 16, 12)) == build_model(case.graph, (3, 16, 12))


UNKNOWN_INPUT = '{"input_name": "image", "nodes": [{"op": "Conv", "name": "c", "inputs": ["nowhere"]}]}'


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"nodes": 3}', "[" * 100_000, UNKNOWN_INPUT])
def test_damaged_metadata_are_ignored(path, text):
    graph = around(conv("c", "x", q(0.03), q(0.5, 100), np.full((2, 3, 1, 1), 50)), source=q(0.03))
    content = build_model(graph, (3, 16, 16))
    content.metadata_props[0].value = text
    found = imported(path, content)
    for a, b in zip(Reference(found).run(IMAGES).outputs, Reference(graph).run(IMAGES).outputs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", ["QUInt8", "QInt8"])
def test_models_of_quantize_static(tmp_path, per_channel, activation):
    """Add, average pools and Resize round otherwise in ONNX Runtime's fused kernels: one code in few places, which the
    layers after them carry on."""
    from onnxruntime.quantization import QuantType

    types = {"activation_type": QuantType[activation], "weight_type": QuantType.QInt8}
    path = quantized_network(tmp_path, per_channel=per_channel, **types)
    graph = import_onnx(path)
    kinds = {type(n) for n in graph.nodes}
    others = {ir.Requantize, ir.ResizeNearest, ir.ConvTranspose, ir.DepthToSpace}
    assert kinds == set(ir.OPERATORS.values()) - others
    found, expected = Reference(graph).run(IMAGES).outputs, run_onnx(path, IMAGES)
    for name, a, b in zip(graph.outputs, found, expected, strict=True):
        scale = graph.qparams(graph.node(name).inputs[0]).scale
        codes = np.abs(np.rint((a - b) / scale))
        assert codes.max() <= 1 and (codes > 0).mean() < 0.04  # of what few places hold: 20 logits, 1024 pixels
        assert len(np.unique(b)) > 10


def test_int8_and_uint8_codes_and_weights_are_exact(path):
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scales = np.array([0.01, 0.02, 0.015, 0.03], F32)
    assert_as_onnxruntime(path, model(*small_qdq(weight=weight, weight_scale=scales)))
    assert_as_onnxruntime(path, model(*small_qdq(np.int8(-9), np.int8(30), weight)))
    assert_as_onnxruntime(path, model(*small_qdq(weight=(weight.astype(int) + 128).astype(np.uint8))))


@pytest.mark.parametrize("bound", ["Relu", "Clip", "low", "both"])
@pytest.mark.parametrize("zero", [np.uint8(0), np.uint8(90), np.int8(-128), np.int8(-20)])
def test_activations_become_bounds_of_codes(path, bound, zero):
    """At a scale without ties: ONNX Runtime computes some of these in float, and rounds ties by chance."""
    nodes, constants = small_qdq(out_zero_point=zero, so=F32(0.2137))
    constants |= {"lo": F32(-2.05), "hi": F32(6.0), "none": F32(0)}
    inputs = {"Relu": [], "Clip": ["none", "hi"], "low": ["lo"], "both": ["lo", "hi"]}[bound]
    nodes[4].output[0] = "raw"
    nodes.insert(5, node("Relu" if bound == "Relu" else "Clip", ["raw", *inputs], "c"))
    graph = assert_as_onnxruntime(path, model(nodes, constants))
    assert len(graph.nodes) == 3  # no node of its own
    if bound in ("Relu", "Clip"):
        assert graph.layers()[0].output.zero_point == 0


def test_a_relu_on_codes_that_others_read_is_a_node_of_its_own(path):
    nodes, constants = small_qdq(out_zero_point=np.uint8(90))
    nodes += [
        node("Relu", ["y"], "r"), node("MaxPool", ["r"], "m", kernel_shape=[2, 2]),
        node("QuantizeLinear", ["m", "so", "zo"], "mq"), node("DequantizeLinear", ["mq", "so", "zo"], "p"),
    ]  # fmt: skip
    graph = assert_as_onnxruntime(path, model(nodes, constants, outputs=("y", "p")))
    assert [type(n) for n in graph.nodes[2:4]] == [ir.Requantize, ir.MaxPool]


def test_a_bound_on_codes_that_others_read_is_a_node_of_its_own(path):
    """Clips of a value that is an output as well: in float before its codes are made again, and on the codes."""
    nodes, constants = small_qdq(out_zero_point=np.uint8(90))
    constants |= {"hi": F32(2.0), "least": np.uint8(0), "most": np.uint8(97)}
    nodes += [
        node("Clip", ["y", "", "hi"], "r"), node("QuantizeLinear", ["r", "so", "zo"], "rq"),
        node("DequantizeLinear", ["rq", "so", "zo"], "p"), node("QuantizeLinear", ["y", "so", "zo"], "again"),
        node("Clip", ["again", "least", "most"], "cq"), node("DequantizeLinear", ["cq", "so", "zo"], "o"),
    ]  # fmt: skip
    graph = assert_as_onnxruntime(path, model(nodes, constants, outputs=("y", "p", "o")))
    assert [graph.qparams(graph.node(name).inputs[0]).q_max for name in graph.outputs] == [255, 100, 97]


@pytest.mark.parametrize("form", ["gemm", "gemm_transposed", "matmul", "matmul_add", "add_matmul"])
@pytest.mark.parametrize("flat", ["Flatten", "Reshape"])
def test_matrix_products(path, form, flat):
    rng = np.random.default_rng(2)
    weight = rng.integers(-127, 128, (5, 12)).astype(np.int8)
    transposed = form == "gemm_transposed"
    constants = {
        "s": F32(0.03), "z": np.uint8(100), "w": weight if transposed else np.ascontiguousarray(weight.T),
        "ws": rng.uniform(0.01, 0.02, 5).astype(F32), "wz": np.zeros(5, np.int8), "so": F32(0.15), "zo": np.uint8(120),
        "b": rng.integers(-900, 900, 5).astype(np.int32), "shape": np.array([-1, 12]),
    }  # fmt: skip
    constants["bs"] = constants["s"] * constants["ws"]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "xq"),
        node("DequantizeLinear", ["xq", "s", "z"], "xd"),
        node("Reshape", ["xd", "shape"], "f") if flat == "Reshape" else node("Flatten", ["xd"], "f"),
        node("QuantizeLinear", ["f", "s", "z"], "fq"),
        node("DequantizeLinear", ["fq", "s", "z"], "fd"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0 if transposed else 1),
        node("DequantizeLinear", ["b", "bs"], "bd", axis=0),
    ]
    if form.startswith("gemm"):
        nodes.append(node("Gemm", ["fd", "wd", "bd"], "c", transB=int(transposed)))
    elif form == "matmul":
        nodes.append(node("MatMul", ["fd", "wd"], "c"))
    else:
        nodes.append(node("MatMul", ["fd", "wd"], "raw"))
        nodes.append(node("Add", ["raw", "bd"] if form == "matmul_add" else ["bd", "raw"], "c"))
    nodes += [node("QuantizeLinear", ["c", "so", "zo"], "q"), node("DequantizeLinear", ["q", "so", "zo"], "y")]
    images = random_images(np.random.default_rng(0), 9, (3, 2, 2))
    graph = assert_as_onnxruntime(path, model(nodes, constants, shape=("N", 3, 2, 2)), images)
    assert len(graph.layers()) == 1 and (graph.layers()[0].weight == weight).all()
    assert graph.layers()[0].bias.any() == (form != "matmul")


def test_uneven_padding_of_convolutions(path):
    for pads in ([0, 0, 1, 1], [1, 0, 0, 2], [0, 2, 2, 0]):
        for stride, dilation in ((2, 1), (1, 2)):
            nodes, constants = small_qdq()
            even = [pad * dilation for pad in pads]
            nodes[4] = node("Conv", ["xd", "wd", "bd"], "c", pads=even, strides=[stride] * 2, dilations=[dilation] * 2)
            assert_as_onnxruntime(path, model(nodes, constants))


def test_constants_may_be_nodes_and_are_folded(path):
    nodes, constants = small_qdq()
    real = (constants.pop("w") * F32(0.02)).astype(F32)
    value = numpy_helper.from_array(real)
    extra = [node("Constant", [], "wf", value=value), node("QuantizeLinear", ["wf", "ws", "wz"], "w"),
             node("Identity", ["bd"], "bi"), node("Constant", [], "c0", value_float=0.0)]  # fmt: skip
    nodes[4].input[2] = "bi"
    content = model([*extra[:2], *nodes[:4], extra[2], extra[3], *nodes[4:]], constants)
    assert_as_onnxruntime(path, content)


def test_a_float_bias_is_rounded(path):
    nodes, constants = small_qdq(b=np.array([1.0, -2.0, 0.00029, 5.0], F32))
    del nodes[3]
    nodes[3].input[2] = "b"
    graph = imported(path, model(nodes, constants))
    assert graph.layers()[0].bias.tolist() == [1667, -3333, 0, 8333]


def test_a_bias_at_another_scale_is_moved(path):
    """Layers that share a bias: exporters do that where it is zero."""
    nodes, constants = small_qdq(bs=F32(0.0012), b=np.array([3, -2, 0, 7], np.int32))
    graph = imported(path, model(nodes, constants))
    assert graph.layers()[0].bias.tolist() == [6, -4, 0, 14]


def test_layers_go_by_the_names_of_nodes(path):
    nodes, constants = small_qdq()
    graph = imported(path, model(nodes, constants))
    assert [n.name for n in graph.nodes] == ["xq", "c.Conv", "y"]
    assert graph.outputs == ("y",) and graph.layers()[0].accumulator == NAMED["int32"]


# --- what is not supported, and hostile files -----------------------------------------------------------------------


def changed(change) -> onnx.ModelProto:
    content = model(*small_qdq())
    change(content.graph)
    return content


def tensor(graph, name):
    return next(t for t in graph.initializer if t.name == name)


def set_tensor(name, values):
    return lambda g: tensor(g, name).CopyFrom(numpy_helper.from_array(np.asarray(values), name))


def set_external(g):
    weight = tensor(g, "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")


def rename_output(at, name):
    def change(g):
        g.node[at].output[0] = name

    return change


def attribute(at, **values):
    def change(g):
        for name, value in values.items():
            for found in [a for a in g.node[at].attribute if a.name == name]:
                g.node[at].attribute.remove(found)
            g.node[at].attribute.append(helper.make_attribute(name, value))

    return change


def set_dims(name, dims):
    def change(g):
        del tensor(g, name).dims[:]
        tensor(g, name).dims.extend(dims)

    return change


def set_input(*sizes):
    def change(g):
        dims = g.input[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, sizes, strict=True):
            dim.dim_value = size

    return change


CASES = {
    "unknown operator": (lambda g: setattr(g.node[4], "op_type", "Softmax"), r"c\.Conv.*\(Softmax\).*expected one of"),
    "foreign domain": (lambda g: setattr(g.node[4], "domain", "com.microsoft"), r"com\.microsoft\.Conv"),
    "float in between": (lambda g: g.node.remove(g.node[5]), "expected a constant, or the uint8"),
    "no codes at the end": (lambda g: setattr(g.output[0], "name", "c"), "c.Conv.*not quantized.*QuantizeLinear"),
    "codes at the end": (lambda g: setattr(g.output[0], "name", "q"), "output 'q': found codes"),
    "no such output": (lambda g: setattr(g.output[0], "name", "nowhere"), "output 'nowhere'"),
    "missing initializer": (lambda g: g.initializer.remove(tensor(g, "w")), "input 'w'"),
    "missing scale": (lambda g: g.initializer.remove(tensor(g, "so")), "scale 'so'"),
    "negative scale": (set_tensor("so", F32(-1)), "scale 'so'"),
    "NaN scale": (set_tensor("so", F32(np.nan)), "scale 'so'"),
    "tiny scale": (set_tensor("so", F32(1e-30)), "scale from"),
    "float64 scale": (set_tensor("so", 0.5), "data type"),
    "float weights": (set_tensor("w", np.zeros((4, 3, 3, 3), F32)), "zero point 'wz': found int8, expected float32"),
    "weights of rank 3": (set_tensor("w", np.zeros((4, 3, 3), np.int8)), "weight 'wd'"),
    "no weights": (set_tensor("w", np.zeros((0, 3, 3, 3), np.int8)), "weight 'wd'"),
    "zero point of weights": (set_tensor("wz", np.int8(5)), r"weight 'wd': found zero points of 5 .* from -1\d\d to"),
    "three scales": (lambda g: [set_tensor("ws", np.ones(3, F32))(g), set_tensor("wz", np.zeros(3, np.int8))(g)],
                     "axis: found 0 and 3 scales"),
    "bias beyond int32": (set_tensor("bs", np.full(4, 1e6, F32)), "bias 'bd'"),
    "two scales of a bias": (set_tensor("bs", np.ones(2, F32)), r"c\.Conv.*2 scales for the shape"),
    "NaN in a bias": (lambda g: (set_tensor("b", np.full(4, np.nan, F32))(g), g.node[4].input.__setitem__(2, "b")),
                      "bias 'b'"),
    "bias too short": (set_tensor("b", np.zeros(3, np.int32)), "bias 'bd'"),
    "int16 codes": (set_tensor("z", np.int16(0)), "data type"),
    "other zero point behind": (lambda g: g.node[1].input.__setitem__(2, "zo"), "another scale or zero point"),
    "external data": (set_external, "tensor 'w': found data in another file"),
    "sizes that lie": (set_dims("w", [2**20, 2**20, 3, 3]), "tensor 'w': found 108 values"),
    "negative sizes": (set_dims("w", [-4, -3, 3, 3]), "tensor 'w': found the shape"),
    "many sizes": (set_dims("w", [1] * 60), "tensor 'w': found the shape"),
    "huge image": (set_input(1, 3, 2**40, 2**40), "2.27 elements"),
    "negative image": (set_input(1, 3, -5, 5), "input 'x'"),
    "image of other depth": (set_input(1, 4, 16, 16), "3 channels"),
    "cycle": (lambda g: g.node[4].input.__setitem__(0, "y"), "input 'y'"),
    "tensor made twice": (rename_output(3, "wd"), "output 'wd' twice"),
    "output over the input": (rename_output(3, "x"), "output 'x' twice"),
    "initializer twice": (lambda g: g.initializer.append(tensor(g, "w")), "twice"),
    "empty output name": (rename_output(3, ""), "no output"),
    "no nodes": (lambda g: g.ClearField("node"), "no nodes"),
    "no outputs": (lambda g: g.ClearField("output"), "outputs: found"),
    "no inputs": (lambda g: g.ClearField("input"), "inputs: found"),
    "strides of the wrong type": (attribute(4, strides=1.5), "strides: found another type"),
    "zero stride": (attribute(4, strides=[0, 1]), "stride"),
    "huge stride": (attribute(4, strides=[2**62, 1]), "stride"),
    "zero dilation": (attribute(4, dilations=[0, 1]), "dilations"),
    "three strides": (attribute(4, strides=[1, 1, 1]), "strides"),
    "negative padding": (attribute(4, pads=[-1] * 4), "pads"),
    "huge padding": (attribute(4, pads=[0, 0, 2**21, 0]), "pads"),
    "unknown padding": (attribute(4, auto_pad="SAME_UPPER"), "auto_pad"),
    "groups": (attribute(4, group=3), "groups"),
    "no groups": (attribute(4, group=0), "groups"),
    "other kernel": (attribute(4, kernel_shape=[5, 5]), "kernel_shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_models(path, name):
    change, message = CASES[name]
    onnx.save(changed(change), path)
    with pytest.raises(InputError, match=message) as caught:
        import_onnx(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"not a model", b"\x08\x07", b"\x89PNG\r\n" * 9])
def test_files_that_are_no_models(path, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match="model.onnx"):
        import_onnx(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        import_onnx(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="cannot be read"):
        import_onnx(tmp_path)


def test_an_old_opset(path):
    onnx.save(model(*small_qdq(), opset=9), path)
    with pytest.raises(InputError, match="opset"):
        import_onnx(path)


def test_metadata_cannot_ask_for_memory(path):
    """A resize or a pool that a small file declares huge."""
    like = ir.MaxPool("m", ("x",), q(), (1, 1), (1, 1))
    graph = around(ir.Resize("r", ("m", "x"), q(), align_corners=False), source=q())
    content = build_model(around(like, source=q()), (1, 2, 2))
    header, _ = to_header(graph.input_name, (graph.nodes[0], like, *graph.nodes[1:]), graph.outputs)
    header["nodes"][1]["kernel"] = [2**20, 1]
    content.metadata_props[0].value = json.dumps(header)
    set_input(1, 1, 2**20 + 2**26, 1)(content.graph)
    onnx.save(content, path)
    tracemalloc.start()
    try:
        import_onnx(path)  # read by its nodes
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20e6


def samples() -> list[bytes]:
    case = small_network()
    contents = [build_model(case.graph, (3, 16, 12)), without_metadata(random_graph(1)[0], random_graph(1)[1])]
    contents.append(model(*small_qdq()))
    assert METADATA_KEY in {p.key for p in contents[0].metadata_props}
    return [content.SerializeToString() for content in contents]


SAMPLES = samples()


def check_hostile(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        graph = import_onnx(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        graph.validate()


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_bytes_that_flip(tmp_path_factory, data):
    content = bytearray(data.draw(st.sampled_from(SAMPLES)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check_hostile(tmp_path_factory.getbasetemp() / "flipped.onnx", bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_truncated_and_spliced(tmp_path_factory, data):
    content = data.draw(st.sampled_from(SAMPLES))
    a, b = sorted(data.draw(st.integers(0, len(content))) for _ in range(2))
    cut = data.draw(st.sampled_from([content[:a], content[a:], content[:a] + content[b:], content[:b] + content[a:]]))
    check_hostile(tmp_path_factory.getbasetemp() / "cut.onnx", cut)
