"""Arrays of any origin: what numpy wrote is read, what lies about itself is refused before memory is taken."""

import io
import os
import resource

import numpy as np
import pytest

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.npy import load_array, read_array


@pytest.mark.parametrize(
    "values",
    [np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.float64(3), np.zeros((0, 5), np.int8),
     np.array([True, False]), np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)), np.array(["a", "bc"])],
)  # fmt: skip
def test_what_numpy_wrote(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    found = load_array(tmp_path / "a.npy", "an array")
    assert found.dtype == np.asarray(values).dtype and found.shape == np.shape(values)
    np.testing.assert_array_equal(found, values)


def header(shape: tuple[int, ...], dtype: str = "<f4", content: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize(
    "content",
    [header((2**40,)), header((2**40, 2**40)), header((1, 3, 2**20, 2**20), content=bytes(64)), header((4,)),
     header((-4,), content=bytes(16)), header((2,), content=bytes(9)), header((1,), "|O", bytes(8)), b"", b"\x93NUMPY",
     b"\x93NUMPY\x09\x00" + bytes(90), header((3,))[:-30] + b"(" * 30, bytes(100)],
)  # fmt: skip
def test_headers_that_lie(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"a\.npy: found no readable array \(.*expected an array"):
        load_array(path, "an array")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_stream_that_ends_early():
    with pytest.raises(ValueError, match="fewer bytes"):
        read_array(io.BytesIO(header((4,), content=bytes(3))), len(header((4,))) + 16)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_and_devices_are_not_waited_for(tmp_path):
    from oaq_repro.integer.graph import Graph
    from oaq_repro.integer.onnx.importer import import_onnx

    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        for read in (lambda p: load_array(p, "an array"), Graph.load, import_onnx):
            with pytest.raises(InputError, match="cannot be read"):
                read(path)
