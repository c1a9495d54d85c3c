import subprocess
import sys
from pathlib import Path

import pytest

from oaq_repro.errors import InputError
from oaq_repro.results.record import save_record
from oaq_repro.results.store import find_record, list_records, lock_run, run_folder


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
