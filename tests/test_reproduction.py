"""scripts/reproduce_paper.py: what it says of each row, and what it runs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scripts
from composing import SMALL_IMAGES, TWO_STEPS
from layouts import write_benchmarks

from oaq_repro import reproduction
from oaq_repro.reproduction import Request, survey
from oaq_repro.results.paper import load_tables
from oaq_repro.results.store import list_records

ROOT = Path(__file__).parents[1]
TABLES = load_tables(ROOT / "results")
SMALL = ("data.batch_size=4",)
ROWS = sum(cell.preset is not None for table in TABLES for cell in table.cells)
VIDEOS = {"activitynet", "fcvid", "mini_kinetics"}  # of which we know no list of what is published
ANSWERED = sum(any(cell.preset is not None for cell in table.cells) and table.data not in VIDEOS for table in TABLES)


@pytest.fixture(scope="module")
def script():
    return scripts.load("reproduce_paper")


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return {name: str(root) for name, root in write_benchmarks(tmp_path_factory.mktemp("benchmarks")).items()}


def rows_of(**fields):
    return {row.cell.preset: row for found in survey(TABLES, Request(**fields)) for row in found.rows}


def test_nothing_is_there(tmp_path, script, capsys, monkeypatch):
    monkeypatch.setenv("OAQ_DATA", str(tmp_path / "data"))
    assert script.main(["--results", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert f"data: imagenet in {tmp_path / 'data'}/imagenet: missing" in said
    assert "imagenet: found no such folder; expected ImageNet with its folders train and val" in said
    assert "docs/data.md; --root voc_detection=FOLDER" in said
    assert said.count("cannot be run: data") == ROWS
    assert f"{ROWS} rows: 0 finished, 0 can be run, {ROWS} lack data" in said
    assert "18 numbers that no run of ours answers: needs these phones" in said
    assert not list(tmp_path.iterdir())


def test_subsets_can_be_run_but_are_called_so(roots, script, capsys, tmp_path):
    given = [word for name, root in roots.items() for word in ("--root", f"{name}={root}")]
    assert script.main(["--results", str(tmp_path), *given, *SMALL]) == 0
    said = capsys.readouterr().out
    assert f"{ROWS} rows: 0 finished, {ROWS} can be run, 0 lack data" in said and f"--run makes {ROWS} runs" in said
    assert "val: images: this is a subset: 12 of 50,000" in said
    assert said.count("not the whole benchmark: its numbers stand in no table of the paper") == ANSWERED
    command = (
        f"    python -m oaq_repro +experiment=paper/voc_detection_int8 data.root={roots['voc_detection']} "
        f"results={tmp_path} data.batch_size=4 seed=0"
    )
    assert command in said.splitlines()


def test_imagenet_without_images_to_train_on(roots, tmp_path):
    shutil.copytree(Path(roots["imagenet"]) / "val", tmp_path / "val")
    where = {"tables": ["imagenet_mobilenetv1"], "roots": {"imagenet": str(tmp_path)}}
    rows = rows_of(**where, overrides=SMALL)
    assert len(rows) == 4 and {row.state for row in rows.values()} == {"cannot be run: data"}
    (finding,) = rows["mobilenetv1_imagenet_oaq"].data.findings
    assert finding.text == f"{tmp_path}: found no folder train, expected one with the images to train on"
    untrained = ("schedule.float=null", "schedule.finetune=null", "data.calibration_images=4")
    assert {row.state for row in rows_of(**where, overrides=untrained).values()} == {"can be run"}


def test_broken_data(roots, tmp_path):
    root = shutil.copytree(roots["voc_detection"], tmp_path / "voc")
    xml = root / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
    xml.write_text("<annotation>")
    rows = rows_of(tables=["voc_detection"], roots={"voc_detection": str(root)}, overrides=SMALL)
    findings = rows["voc_detection_oaq"].data.findings
    assert [str(xml) in finding.text for finding in findings if finding.state == "broken"] == [True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "imagnet=/data"], "error: --root: found imagnet, expected one of activitynet, cifar10, "),
        (["seed=1"], "error: seed: found among the overrides, expected --seeds"),
        (["data.batch=1"], "error: Could not override 'data.batch'"),
        (["data.batch_size=0"], "error: data.batch_size: found 0, expected greater than or equal to 1"),
    ],
)
def test_bad_input_is_one_message(script, capsys, arguments, message):
    assert script.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("arguments", [["--root", "imagenet"], ["--seeds", "0,a"], ["--seeds", "1,1"]])
def test_bad_arguments(script, capsys, arguments):
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert "expected" in capsys.readouterr().err


def test_a_failure_does_not_stop_the_others(roots, script, capsys, tmp_path, monkeypatch):
    called = []

    def call(command):
        called.append(command)
        return int(any("_oaq" in word for word in command) and "seed=1" in command)

    monkeypatch.setattr(reproduction, "_call", call)
    where = ["--table", "voc_detection", "--root", f"voc_detection={roots['voc_detection']}"]
    assert script.main(["--run", "--seeds", "0,1", "--results", str(tmp_path), *where, *SMALL]) == 1
    assert [command[0] for command in called] == [sys.executable] * 4
    said = capsys.readouterr()
    assert "[4 of 4] Object detection on Pascal VOC, mAP; row TF-Lite QAT, 8 bits" in said.out
    assert said.err.startswith("1 runs failed:") and "seed=1: exit status 1" in said.err


@pytest.mark.slow
def test_runs_go_on_where_they_were_stopped(roots, script, capsys, tmp_path):
    """SIGTERM in the second run; then the same command makes what is left."""
    results = tmp_path / "results"
    root = f"voc_detection={roots['voc_detection']}"
    where = ["--table", "voc_detection", "--root", root, "--results", str(results)]
    where += [*TWO_STEPS, *SMALL_IMAGES["voc_detection"]]
    command = [sys.executable, str(scripts.FOLDER / "reproduce_paper.py"), "--run", *where]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(list(results.glob("fine_tuned/*/0"))) < 2:  # from then on an interruption is recorded
        assert process.poll() is None and time.monotonic() < deadline, "no second run began"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "stopped by SIGTERM; the same command goes on from here" in error
    assert "Traceback" not in error
    statuses = [record.status for record in list_records(results).records]
    assert sorted(statuses) == ["finished", "interrupted"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 rows: 1 finished, 1 can be run, 0 lack data" in done.stdout and "[1 of 1]" in done.stdout
    assert [record.status for record in list_records(results).records] == ["finished"] * 2
    capsys.readouterr()
    assert script.main(where) == 0
    said = capsys.readouterr().out
    assert said.count("finished, but not as the paper's table asks") == 2 and "python -m" not in said
