import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oaq_repro.errors import InputError
from oaq_repro.results.record import save_record
from oaq_repro.results.store import file_hash, find_record, list_records, lock_run, run_folder, run_hash

FINGERPRINT = "f" * 64


def _with(config: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    *path, last = where.split(".")
    section = changed
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    return changed


def test_hash_is_sixteen_hex_digits_and_known(make_config) -> None:
    digits = run_hash(make_config(), FINGERPRINT)
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert run_hash({"method": {"name": "oaq"}}, "data") == "2b1753c7276ace55"  # a release must not rename old runs


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("seed", 7),
        ("data.seed", 7),
        ("data.root", "elsewhere"),
        ("data.num_workers", 8),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 2),
        ("trainer.default_root_dir", "elsewhere"),
        ("trainer.enable_progress_bar", False),
        ("logger", {"_target_": "pytorch_lightning.loggers.WandbLogger"}),
        ("results", "elsewhere"),
        ("hydra", {"run": {"dir": "elsewhere"}}),
        ("threads", 4),
        ("choices", {"method": "oaq"}),
    ],
)
def test_hash_ignores_what_changes_no_number(make_config, where: str, value: Any) -> None:
    config = make_config()
    assert run_hash(_with(config, where, value), FINGERPRINT) == run_hash(config, FINGERPRINT)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("task.name", "detection"),
        ("data._target_", "oaq_repro.data.voc.VOC"),
        ("data.batch_size", 32),
        ("data.subset", 100),
        ("model.pretrained", True),
        ("model.root", "a field that is a path only in the data section"),
        ("method.lr", 0.02),
        ("method.name", "int8"),
        ("accumulator.bits", 14),
        ("accumulator.block", 32),
        ("schedule.finetune.epochs", 3),
        ("trainer.precision", "bf16-mixed"),
    ],
)
def test_hash_follows_the_science(make_config, where: str, value: Any) -> None:
    config = make_config()
    assert run_hash(_with(config, where, value), FINGERPRINT) != run_hash(config, FINGERPRINT)


def test_hash_ignores_workers_at_any_depth() -> None:
    few, many = ({"data": {"inner": {"num_workers": workers}}} for workers in (0, 8))
    assert run_hash(few, FINGERPRINT) == run_hash(many, FINGERPRINT)


def test_hash_follows_the_data(make_config) -> None:
    assert run_hash(make_config(), FINGERPRINT) != run_hash(make_config(), "e" * 64)


@given(st.permutations(["task", "data", "model", "method", "accumulator", "schedule"]))
def test_hash_ignores_order_and_number_type(order: list[str]) -> None:
    base = {name: {"a": 1, "b": [1, 2], "c": (1, 2)} for name in sorted(order)}
    other = {name: {"c": [1, 2.0], "b": (1, 2), "a": 1.0} for name in order}
    assert run_hash(base, FINGERPRINT) == run_hash(other, FINGERPRINT)


def test_true_is_not_one() -> None:
    assert run_hash({"model": {"a": True}}, FINGERPRINT) != run_hash({"model": {"a": 1}}, FINGERPRINT)


@pytest.mark.parametrize("key", ["checkpoint", "backbone_checkpoint"])
def test_checkpoint_counts_by_its_content(make_config, tmp_path: Path, key: str) -> None:
    hashes = []
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
        hashes.append(run_hash(_with(make_config(), f"model.{key}", str(tmp_path / name)), FINGERPRINT))
    assert hashes[0] == hashes[1] != hashes[2]
    with pytest.raises(InputError, match=rf"model\.{key}.*absent"):
        run_hash(_with(make_config(), f"model.{key}", str(tmp_path / "absent")), FINGERPRINT)


@pytest.mark.parametrize("value", [Path("a"), object(), float("nan"), {1, 2}])
def test_hash_rejects_what_json_cannot_hold(make_config, value: Any) -> None:
    with pytest.raises(InputError, match=r"method\.inner\[1\]\.x"):
        run_hash(_with(make_config(), "method.inner", [0, {"x": value}]), FINGERPRINT)


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_hash(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_find_and_list(make_record, tmp_path: Path) -> None:
    assert find_record(tmp_path, "0" * 16, 0) is None
    for hash, seed in (("b" * 16, 0), ("a" * 16, 10), ("a" * 16, 2)):
        save_record(make_record(3, seed=seed, hash=hash), run_folder(tmp_path, hash, seed) / "record.json")
    assert find_record(tmp_path, "a" * 16, 2) == make_record(3, seed=2, hash="a" * 16)
    listing = list_records(tmp_path)
    assert [(record.hash[0], record.seed) for record in listing.records] == [("a", 2), ("a", 10), ("b", 0)]
    assert listing.problems == []


def test_listing_names_every_bad_record_and_keeps_the_rest(make_record, tmp_path: Path) -> None:
    good = run_folder(tmp_path, "a" * 16, 0) / "record.json"
    save_record(make_record(3, hash="a" * 16), good)
    copied = run_folder(tmp_path, "c" * 16, 1) / "record.json"
    copied.parent.mkdir(parents=True)
    copied.write_bytes(good.read_bytes())
    broken = run_folder(tmp_path, "d" * 16, 0) / "record.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    listing = list_records(tmp_path)
    assert [record.hash for record in listing.records] == ["a" * 16]
    assert [str(copied) in listing.problems[0], str(broken) in listing.problems[1]] == [True, True]
    assert "fields hash and seed" in listing.problems[0]


def test_absent_results_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_records(tmp_path / "absent")


HOLD = """
import sys
from oaq_repro.results.store import lock_run
with lock_run(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_hold_one_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "a" * 16, 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process"), lock_run(folder):
            pass
        with lock_run(run_folder(tmp_path, "a" * 16, 1)):
            pass  # another seed is free
    finally:
        holder.kill()  # a process that dies leaves no lock behind
        holder.communicate()
    with lock_run(folder, timeout=5) as held:
        assert held == folder


def test_lock_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be locked"), lock_run(tmp_path / "file" / "0"):
        pass
