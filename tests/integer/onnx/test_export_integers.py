"""Models of integers alone on ONNX Runtime, against the reference: equality to the last bit."""

import numpy as np
import onnx
import pytest
from integer.onnx.test_exporter import assert_equal, images_of
from oracles import requantization as oracle
from oracles.random_graphs import random_graph, random_images
from oracles.reference import around, conv, linear, q, small_network
from restricted import NEEDS, RESTRICTABLE, run_restricted

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.audit import audit
from oaq_repro.integer.onnx.audit import audit_onnx
from oaq_repro.integer.onnx.exporter import build_model, export_onnx
from oaq_repro.integer.onnx.importer import import_with_shape
from oaq_repro.integer.reference import Reference

F32 = np.float32
INTEGERS = ("dyadic", "fixed16")
FLOAT = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16}


def float_operators(model: onnx.ModelProto) -> set[str]:
    """Operators that read or write float values."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}
    return {
        node.op_type for node in model.graph.node for name in (*node.input, *node.output) if kinds.get(name) in FLOAT
    }


@pytest.mark.parametrize("requantization", INTEGERS)
@pytest.mark.parametrize("first", range(0, 150, 50))
def test_random_graphs(first, requantization):
    for seed in range(first, first + 50):
        graph, shape = random_graph(seed)
        graph = oracle.requantized(graph, requantization)
        assert_equal(graph, random_images(np.random.default_rng(seed), 2, shape))
        if any(isinstance(node, ir.RoundingNode) for node in graph.nodes):
            assert float_operators(build_model(graph, shape)) <= {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.parametrize("requantization", INTEGERS)
def test_nodes_may_differ(requantization):
    """Some nodes round by integers, some in float32: each is written as it rounds."""
    for seed in range(30):
        graph, shape = random_graph(seed)
        other = oracle.requantized(graph, requantization)
        nodes = [a if i % 2 else b for i, (a, b) in enumerate(zip(graph.nodes, other.nodes, strict=True))]
        mixed = ir.Graph(graph.input_name, tuple(nodes), graph.outputs)
        mixed.validate()
        assert_equal(mixed, random_images(np.random.default_rng(seed), 2, shape))


@pytest.mark.parametrize("requantization", INTEGERS)
def test_the_graph_comes_back(tmp_path, requantization):
    for seed in range(40):
        graph, shape = random_graph(seed)
        graph = oracle.requantized(graph, requantization)
        found, found_shape = import_with_shape(export_onnx(graph, shape, tmp_path / "model.onnx"))
        assert found_shape == shape and found.outputs == graph.outputs
        for a, b in zip(found.nodes, graph.nodes, strict=True):
            assert type(a) is type(b) and a.name == b.name
            assert getattr(a, "requantization", None) == getattr(b, "requantization", None)
            if isinstance(a, ir.Layer):
                assert a.accumulator == b.accumulator
                for field in ("weight", "bias", "weight_scale", "multiplier"):
                    np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
                    assert getattr(a, field).dtype == getattr(b, field).dtype


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**-31, 2.0**-20, 1e-4, 0.3, 1.0, 100.0, 2.0**31])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_sums_of_all_32_bits(scale, kind):
    """Biases move sums to both ends of int32, where a careless shift overflows 64 bits."""
    bias = [2**31 - 1 - 255 * 127, -(2**31), 2**30, -(2**30), 0, 7]
    weight, output = np.full((6, 1), 127), q(1.0, 100, 201)
    if kind == "conv":
        nodes = (conv("c", "x", q(), output, weight.reshape(6, 1, 1, 1), bias, [scale] * 6),)
        codes = np.arange(256).reshape(1, 1, 16, 16)
    else:
        flat = ir.Flatten("f", ("x",), q())
        nodes = (flat, linear("c", "f", q(), output, weight, bias, [scale] * 6))
        codes = np.arange(256).reshape(256, 1, 1, 1)
    graph = oracle.requantized(around(*nodes, source=q()), "dyadic")
    found = assert_equal(graph, images_of(codes, q()))[0]
    assert len(np.unique(found)) > 1 or scale in (2.0**-40, 2.0**31)


def test_fixed16_at_every_sum():
    """All sums near both limits, and every half."""
    m = np.array([1, 2**14, 12345, 2**15 - 1, 100])
    weight, bias = np.array([127, 1, -128, 127, -1]), np.array([30000, 0, -30000, -(2**15), 2**15 - 1])
    node = conv("c", "x", q(1.0, 128), q(1.0, 128), weight.reshape(5, 1, 1, 1), bias, m / 2**15)
    graph = oracle.requantized(around(node, source=q(1.0, 128)), "fixed16")
    assert graph.layers()[0].requantization == "fixed16"
    np.testing.assert_array_equal(graph.layers()[0].bias, bias)
    assert_equal(graph, images_of(np.arange(256).reshape(1, 1, 16, 16), q(1.0, 128)))


@pytest.mark.skipif(not RESTRICTABLE, reason=NEEDS)
def test_products_are_exact_on_processors_without_vnni():
    program = """
import numpy as np
from integer.onnx.test_export_integers import wide_products
graph, images, expected = wide_products()
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import run_onnx
model = build_model(graph, images.shape[1:])
print([np.array_equal(a, b) for exact in (True, False) for a, b in zip(run_onnx(model, images, exact), expected)])
"""
    assert run_restricted(program).strip() == str([True] * 4)


def wide_products():
    """A graph whose pairs of products leave 16 bits, images for it, and the reference's outputs."""
    rng = np.random.default_rng(0)
    source, output = q(1.0), q(2000.0, 0)
    nodes = (
        conv("c", "x", source, output, rng.integers(90, 128, (8, 16, 3, 3)), None, [1.0] * 8),
        ir.GlobalAvgPool("g", ("x",), source, False),
        linear("l", "g", source, output, rng.integers(90, 128, (8, 16)), None, [1.0] * 8),
    )
    graph = oracle.requantized(around(*nodes, source=source, outputs=("c", "l")), "dyadic")
    images = rng.integers(200, 256, (2, 16, 5, 5)).astype(F32)
    return graph, images, Reference(graph).run(images).outputs


def test_a_network_in_any_batch_and_its_file_is_plain_onnx(tmp_path):
    case = small_network(accumulator=NAMED["int16"])
    for requantization in INTEGERS:
        graph = oracle.requantized(case.graph, requantization)
        assert_equal(graph, case.images)
        path = export_onnx(graph, (3, 16, 12), tmp_path / "model.onnx")
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}
        assert export_onnx(graph, (3, 16, 12), tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_a_changed_model_is_refused_by_name(tmp_path):
    graph = oracle.requantized(small_network().graph, "dyadic")
    model = build_model(graph, (3, 16, 12))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(InputError, match="model.onnx: .*ConvInteger.*no integer form is known for this operator"):
        import_with_shape(tmp_path / "model.onnx")


def test_the_audit_reads_it(tmp_path):
    """The same registers as in QDQ; no pair of products can saturate."""
    qdq = small_network(accumulator=NAMED["int16"]).graph
    for graph in (qdq, oracle.requantized(qdq, "dyadic")):
        assert audit_onnx(export_onnx(graph, (3, 16, 12), tmp_path / "model.onnx")).layers == audit(graph)
    assert {row.pairs for row in audit(graph)} == {"exact"} < {row.pairs for row in audit(qdq)}
    assert [row.narrowest for row in audit(graph)] == [row.narrowest for row in audit(qdq)]
