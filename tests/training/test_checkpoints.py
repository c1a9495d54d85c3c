import os
import zipfile

import pytest
import torch

from oaq_repro.errors import InputError
from oaq_repro.models.checkpoint import content_hash, read_state_dict, read_torch
from oaq_repro.training.checkpoints import AtomicCheckpointIO, drop_unreadable, torch_bytes


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1, "weight": torch.arange(1000.0)}, path)
    return path


def test_a_full_disk_leaves_the_checkpoint_before(path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="last.ckpt: cannot be written .No space left on device"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert AtomicCheckpointIO().load_checkpoint(path)["epoch"] == 1
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_sound_checkpoint_stays(path, capsys):
    drop_unreadable(path)
    drop_unreadable(path.with_name("absent.ckpt"))
    assert path.exists() and capsys.readouterr().out == ""


def flip(path):
    """One bit of a tensor."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (entry,) = [e for e in archive.infolist() if e.filename.endswith("/data/0")]
    content[entry.header_offset + 1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, lambda p: p.write_bytes(p.read_bytes()[:2000]), lambda p: p.write_bytes(b"")])
def test_a_damaged_checkpoint_is_said_and_dropped(path, damage, capsys):
    damage(path)
    drop_unreadable(path)
    assert not path.exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert str(path) in line and line.endswith("it is removed and training starts anew")


def test_torch_alone_would_take_the_flipped_bit(path):
    flip(path)
    assert not torch.equal(torch.load(path, weights_only=True)["weight"], torch.arange(1000.0))
    with pytest.raises(InputError, match="is damaged .the checksum of .*data/0 does not fit"):
        read_torch(path)
    with pytest.raises(InputError, match="is damaged"):
        read_state_dict(path)


def test_the_hash_is_of_the_content_alone(tmp_path):
    state = {"a": torch.ones(2, 3), "b": torch.tensor(True), "extra": {"bits": 16, "reason": None}}
    again = {name: state[name] for name in reversed(state)}
    assert content_hash(state) == content_hash(again)
    (tmp_path / "x.ckpt").write_bytes(torch_bytes(state))
    assert content_hash(read_torch(tmp_path / "x.ckpt")) == content_hash(state)


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.ones(3, 2)},
        {"a": torch.ones(2, 3, dtype=torch.float64)},
        {"a": torch.ones(2, 3).index_fill(1, torch.tensor([2]), 1 + 2**-23)},
        {"b": torch.ones(2, 3)},
        {"a": torch.ones(2, 3), "extra": None},
    ],
)
def test_other_content_has_another_hash(other):
    assert content_hash({"a": torch.ones(2, 3)}) != content_hash(other)
