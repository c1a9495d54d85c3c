"""Two codes a byte: by hand, there and back, and in files beside those of before."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from oracles.reference import around, conv, q

from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.graph import file as graph_file
from oaq_repro.integer.graph.nibbles import fits, pack, stored_bytes, unpack
from oaq_repro.integer.reference import Reference


def test_by_hand():
    codes = np.array([[1, -1, 7], [-8, 0, 5]], np.int8)
    assert pack(codes).tolist() == [0xF1, 0x87, 0x50]
    assert pack(codes.ravel()[:5]).tolist() == [0xF1, 0x87, 0x00]


@given(arrays_of.arrays(np.int8, arrays_of.array_shapes(max_dims=4, max_side=5), elements=st.integers(-8, 7)))
def test_there_and_back(codes):
    packed = pack(codes)
    assert packed.dtype == np.uint8 and packed.nbytes == stored_bytes(codes) == -(-codes.size // 2)
    found = unpack(packed, list(codes.shape))
    assert found.dtype == np.int8 and np.array_equal(found, codes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([-8, 7], np.int8), True),
        (np.array([8], np.int8), False),
        (np.array([-9], np.int8), False),
        (np.array([1], np.int32), False),
        (np.array([1], np.uint8), False),
        (np.zeros(0, np.int8), False),
    ],
)
def test_what_fits(values, expected):
    assert fits(values) is expected


@pytest.mark.parametrize("shape", [[5], [2], [2, -2], [2.0, 2.0], [True, 4], "4", None, [[4]]])
def test_shapes_of_others_are_refused(shape):
    with pytest.raises(InputError, match="found uint8 .2. for codes of shape .*, expected two a byte"):
        unpack(np.zeros(2, np.uint8), shape)


def test_codes_beyond_the_shape_are_refused():
    with pytest.raises(InputError, match=r"found codes beyond shape \[3\]"):
        unpack(np.array([0, 0x10], np.uint8), [3])


def graph_with(low, high, seed=0):
    """Two convolutions whose codes lie between these."""
    rng = np.random.default_rng(seed)
    nodes = [
        conv("a", "x", q(), q(), rng.integers(low, high + 1, (4, 3, 3, 3))),
        conv("b", "a", q(), q(), rng.integers(-100, 100, (3, 4, 1, 1))),
    ]
    return around(*nodes, source=q())


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {member.filename: member.file_size for member in archive.infolist()}


def test_a_file_has_half_the_bytes_of_weights_of_four_bits_and_the_same_graph(tmp_path):
    small, large = graph_with(-7, 7), graph_with(-9, 9)
    for graph in (small, large):
        graph.save(tmp_path / "net.npz")
        found = ir.Graph.load(tmp_path / "net.npz")
        for mine, other in zip(found.layers(), graph.layers(), strict=True):
            assert mine.weight.dtype == np.int8 and np.array_equal(mine.weight, other.weight)
        x = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
        for mine, other in zip(Reference(found).run(x).outputs, Reference(graph).run(x).outputs, strict=True):
            assert np.array_equal(mine, other)
    sizes = [members(graph.save(tmp_path / "net.npz")) for graph in (small, large)]
    names = [name for name in sizes[0] if name.endswith("weight.npy")]
    assert [sizes[1][name] - sizes[0][name] for name in names] == [108 // 2, 0]


def test_files_of_before_still_load(tmp_path):
    graph = graph_with(-7, 7)
    header, arrays = graph_file.to_header(graph.input_name, graph.nodes, graph.outputs)
    assert header["format"] == "oaq_repro integer graph 1"
    np.savez(tmp_path / "net.npz", header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    for mine, other in zip(ir.Graph.load(tmp_path / "net.npz").layers(), graph.layers(), strict=True):
        assert np.array_equal(mine.weight, other.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda packed: None, "header: packed: expected the shapes of arrays"),
        (lambda packed: packed | {"9.weight": [2]}, "net.npz: 9.weight: found no array, expected the one that"),
        (lambda packed: dict.fromkeys(packed, [5]), r"net.npz: 1.weight: found uint8 .* for codes of shape \[5\]"),
        (lambda packed: {}, "net.npz: .*weight"),
    ],
)
def test_headers_that_do_not_fit_are_named(tmp_path, change, message):
    path = graph_with(-7, 7).save(tmp_path / "net.npz")
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays["header"].tobytes())
    header["packed"] = change(header["packed"])
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message):
        ir.Graph.load(path)
