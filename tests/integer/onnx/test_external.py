"""Tensors in files beside the model: read where they lie in its folder, refused everywhere else."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from oracles.onnx_models import model as qdq_model
from oracles.onnx_models import small_qdq

from oaq_repro.errors import InputError
from oaq_repro.integer.onnx.external import external_bytes, is_external
from oaq_repro.integer.onnx.importer import import_onnx

CONTENT = bytes(range(64))


def tensor(**fields):
    found = TensorProto(data_type=TensorProto.UINT8, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in fields.items():
        found.external_data.add(key=key, value=str(value))
    return found


@pytest.fixture
def folder(tmp_path):
    """A model's folder, with files in it and beside it."""
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in (folder / "data", folder / "below" / "data", tmp_path / "secret", tmp_path / "outside" / "data"):
        place.write_bytes(CONTENT)
    return folder


def read(folder, **fields):
    return external_bytes("w", tensor(**fields), folder, 16)


def test_files_in_the_folder(folder):
    assert read(folder, location="data") == CONTENT[:16]
    assert read(folder, location="below/data", offset=48, length=16) == CONTENT[48:]
    assert read(folder, location="./data", offset=3, checksum="anything") == CONTENT[3:19]
    (folder / "link").symlink_to("below/data")
    assert read(folder, location="link") == CONTENT[:16]
    assert is_external(tensor(location="data")) and not is_external(TensorProto())


def test_a_folder_that_is_a_link(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder, target_is_directory=True)
    assert read(tmp_path / "alias", location="data") == CONTENT[:16]


@pytest.mark.parametrize(
    "location", ["", ".", "..", "../secret", "below/../../secret", "/etc/hostname", "\\secret", "..\\secret", "C:data",
                 "data\\..\\..\\secret", "leaving", "leaving_folder/data", "below/chain", "a\0b", "circle"],
)  # fmt: skip
def test_other_files_are_never_read(folder, tmp_path, location):
    (folder / "leaving").symlink_to(tmp_path / "secret")
    (folder / "leaving_folder").symlink_to(tmp_path / "outside", target_is_directory=True)
    (folder / "below" / "chain").symlink_to(folder / "leaving")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="tensor 'w': found data in another file"):
        read(folder, location=location)


@pytest.mark.parametrize(
    "fields",
    [{"offset": 49}, {"offset": -1}, {"offset": "1e3"}, {"offset": "9" * 40}, {"length": 15}, {"length": "all"},
     {"offset": ""}, {"offset": "٣"}],
)  # fmt: skip
def test_wrong_places_in_the_file(folder, fields):
    with pytest.raises(InputError, match="tensor 'w': found data in another file"):
        read(folder, location="data", **fields)


def test_no_plain_file(folder):
    os.mkfifo(folder / "pipe")
    for location in ("pipe", "below", "missing"):
        with pytest.raises(InputError, match=f"found data in another file, '{location}'"):
            read(folder, location=location)


def test_models_with_tensors_in_other_files_are_imported(tmp_path):
    nodes, constants = small_qdq()
    onnx.save(qdq_model(nodes, constants), tmp_path / "whole.onnx")
    path = tmp_path / "parts.onnx"
    onnx.save(qdq_model(nodes, constants), path, save_as_external_data=True, location="tensors", size_threshold=0)
    one, two = (import_onnx(each) for each in (tmp_path / "whole.onnx", path))
    np.testing.assert_array_equal(one.layers()[0].weight, two.layers()[0].weight)
    (tmp_path / "tensors").write_bytes(b"short")
    with pytest.raises(InputError, match=r"parts.onnx: tensor .* 'tensors', expected a file of at least \d+ bytes"):
        import_onnx(path)
