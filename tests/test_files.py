import os
import stat

import pytest

from oaq_repro.errors import InputError
from oaq_repro.files import file_hash, json_checksum, remove_temporary, write_atomic


@pytest.mark.parametrize("content", ["text", b"bytes", lambda path: path.write_text("written")])
def test_writes_and_replaces(tmp_path, content):
    path = tmp_path / "new" / "file.txt"
    assert write_atomic(path, "old") == path
    write_atomic(path, content)
    assert path.read_text() in ("text", "bytes", "written")
    assert os.listdir(path.parent) == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_old_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fails(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="file.txt: cannot be written .No space left on device"):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_interruption_leaves_no_rubbish(tmp_path):
    def interrupted(temporary):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file.txt", interrupted)
    assert os.listdir(tmp_path) == []


def test_only_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    kept = [".lock", "last.ckpt", ".hidden", ".two.dots", "._record.json", ".keep.me.txt"]
    for name in kept:
        (tmp_path / name).touch()
    monkeypatch.setattr(os, "replace", lambda source, target: None)
    monkeypatch.setattr("pathlib.Path.unlink", lambda path, missing_ok: None)
    for name in ("last.ckpt", "finetune/metrics.csv", "no_suffix", "weights.safetensors"):
        write_atomic(tmp_path / name, "half")
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*"))) == len(kept) + 1 + 4
    remove_temporary(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "finetune"])
    assert os.listdir(tmp_path / "finetune") == []


def test_the_checksum_of_json_is_that_of_its_content():
    content = {"b": [1, 2.5], "a": {"c": None}}
    assert json_checksum(content) == json_checksum({"a": {"c": None}, "b": [1, 2.5], "checksum": "any"})
    assert json_checksum(content) != json_checksum({**content, "b": [1, 2.5000000000000004]})


def test_file_hash(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
