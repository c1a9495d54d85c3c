"""scripts/make_tables.py and what it calls: results/output.py."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import scripts

from oaq_repro.paper_costs import paper_costs
from oaq_repro.results.output import differences, make, tracked_files, write
from oaq_repro.results.record import save_record
from oaq_repro.results.store import run_folder

ROOT = Path(__file__).parents[2]
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]


@pytest.fixture
def script() -> ModuleType:
    return scripts.load("make_tables")


def _fill(results: Path, make_record, count: int, layers: int = 4) -> None:
    for i in range(count):
        hash, seed = f"{i // 5:016x}", i % 5
        save_record(make_record(layers, seed=seed, hash=hash), run_folder(results, hash, seed) / "record.json")


def test_script_writes_everything_twice_the_same(make_record, script: ModuleType, tmp_path: Path, capsys) -> None:
    _fill(tmp_path, make_record, 6)
    assert script.main(["--results", str(tmp_path)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in paths if path.parent.name == "tables"} == {
        "comparison.md", "comparison.csv", "comparison.tex",
    }  # fmt: skip
    assert any(path.name.startswith("alpha-cifar10-classifier-oaq-int16-") for path in paths)
    assert script.main(["--results", str(tmp_path), "--out", str(tmp_path / "again")]) == 0
    for path in paths:
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path)).read_bytes()


def test_script_lists_bad_records_after_writing_the_rest(
    make_record, script: ModuleType, tmp_path: Path, capsys
) -> None:
    _fill(tmp_path, make_record, 2)
    bad = run_folder(tmp_path, "e" * 16, 0) / "record.json"
    bad.parent.mkdir(parents=True)
    bad.write_text("nonsense")
    assert script.main(["--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert str(bad) in capsys.readouterr().err
    assert "classifier" in (tmp_path / "out" / "tables" / "comparison.md").read_text()


def test_script_without_results(script: ModuleType, tmp_path: Path, capsys) -> None:
    assert script.main(["--results", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_hundred_records_take_a_few_seconds(make_record, tmp_path: Path) -> None:
    _fill(tmp_path, make_record, 100, layers=60)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(scripts.FOLDER / "make_tables.py"), "--results", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime - before.ru_utime  # not the clock: others may use the machine
    assert result.returncode == 0, result.stderr
    assert took < 5
    assert len((tmp_path / "tables" / "comparison.csv").read_text().splitlines()) == 21


def test_check_names_what_differs(make_record, script: ModuleType, tmp_path: Path, capsys) -> None:
    _fill(tmp_path, make_record, 2)
    assert script.main(["--results", str(tmp_path)]) == 0
    assert script.main(["--results", str(tmp_path), "--check"]) == 0
    (tmp_path / "tables" / "comparison.csv").write_text("typed")
    (tmp_path / "tables" / "comparison.tex").unlink()
    (tmp_path / "figures" / "old.svg").write_text("left over")
    (svg,) = (tmp_path / "figures").glob("alpha-*.svg")
    svg.write_bytes(svg.read_bytes().replace(b"alpha</text>", b"beta</text>"))
    capsys.readouterr()
    assert script.main(["--results", str(tmp_path), "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [(Path(line.split(":")[0]).name, line.split(": ")[1]) for line in lines] == [
        (svg.name, "differs"),
        ("old.svg", "nothing makes this file"),
        ("comparison.csv", "differs"),
        ("comparison.tex", "missing"),
    ]
    assert script.main(["--results", str(tmp_path)]) == 0
    assert not (tmp_path / "figures" / "old.svg").exists()
    assert script.main(["--results", str(tmp_path), "--check"]) == 0


def test_pictures_of_another_matplotlib_are_not_compared(make_record, tmp_path: Path) -> None:
    _fill(tmp_path, make_record, 1)
    output = make(tmp_path, paper_costs)
    write(output, tmp_path)
    (png,) = (tmp_path / "figures").glob("*.png")
    (svg,) = (tmp_path / "figures").glob("*.svg")
    png.write_bytes(b"other bytes")
    svg.write_text("<svg>Matplotlib v0.1.0, other shapes</svg>")
    assert differences(output, tmp_path) == []
    svg.unlink()
    assert differences(output, tmp_path) == [f"{svg}: missing"]


def test_the_check_looks_at_what_git_tracks(make_record, tmp_path: Path) -> None:
    _fill(tmp_path, make_record, 1)
    assert tracked_files(tmp_path) is None
    write(make(tmp_path, paper_costs), tmp_path)
    subprocess.run([*GIT, "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*GIT, "-C", str(tmp_path), "add", "."], check=True)
    _fill(tmp_path, make_record, 7)  # runs of somebody's own
    output = make(tmp_path, paper_costs, tracked_only=True)
    assert differences(output, tmp_path) == [] and output.problems == []
    assert differences(make(tmp_path, paper_costs), tmp_path) != []


def test_no_records_make_tables_that_say_so(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results" / "paper", tmp_path / "paper")
    output = make(tmp_path, paper_costs)
    assert "No finished run yet." in output.files["tables/comparison.md"].decode()
    assert "cannot run: data" in output.files["tables/paper_imagenet_mobilenetv1.csv"].decode()
    assert not any(name.startswith("figures") for name in output.files)
