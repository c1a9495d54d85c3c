"""The command line: `python -m oaq_repro.integer`."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oracles.onnx_models import quantized_network
from oracles.reference import small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.integer import __main__ as cli
from oaq_repro.integer.audit import Audit, audit
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Dequantize, Graph
from oaq_repro.integer.onnx.exporter import export_onnx
from oaq_repro.integer.onnx.importer import import_onnx
from oaq_repro.integer.reference import Reference
from oaq_repro.integer.saturation import PairCounter


@pytest.fixture
def model(tmp_path):
    case = small_network()
    path = case.graph.save(tmp_path / "graph.npz")
    return case, path


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cli, "BENCH_SECONDS", 0.01)


def test_audit_table(model, capsys):
    case, path = model
    assert cli.main(["audit", str(path)]) == 0
    out = capsys.readouterr().out
    for layer in case.graph.layers():
        assert layer.name in out
    assert "of 5 layers" in out and "of 5\n" in out and "depthwise" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_audit_json_is_the_same_for_both_formats(model, tmp_path, capsys):
    case, path = model
    cli.main(["audit", str(path), "--json"])
    from_graph = json.loads(capsys.readouterr().out)
    cli.main(["audit", str(export_onnx(case.graph, (3, 16, 12), tmp_path / "m.onnx")), "--json"])
    assert json.loads(capsys.readouterr().out) == from_graph
    assert [row["name"] for row in from_graph["layers"]] == [layer.name for layer in case.graph.layers()]
    assert from_graph == Audit(layers=audit(case.graph)).to_dict() and from_graph["total"] == 5


def test_audit_counts_on_images_what_saturates(model, tmp_path, capsys):
    case, path = model
    images = tmp_path / "images.npy"
    np.save(images, case.images)
    cli.main(["audit", str(path), "--input", str(images), "--json"])
    rows = json.loads(capsys.readouterr().out)["layers"]
    exported = export_onnx(case.graph, (3, 16, 12), tmp_path / "m.onnx")
    cli.main(["audit", str(exported), "--input", str(images), "--threads", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["layers"] == rows
    named = {row["name"]: row["saturated"] for row in rows if row["pairs"] != "exact"}
    assert all(row["saturated"] is None for row in rows if row["name"] not in named)
    counter = PairCounter(case.graph, set(named), (3, 16, 12))
    counter.add(case.images)
    assert named == {name: count.model_dump() for name, count in counter.counts.items()}
    assert cli.main(["audit", str(path), "--input", str(images)]) == 0
    out = capsys.readouterr().out
    changing = sum(count["changed"] > 0 for count in named.values())
    assert changing and f"change codes on these images, in %: {changing} of 5." in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_audit_counts_in_models_of_other_tools(tmp_path, capsys):
    path = quantized_network(tmp_path)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32))
    assert cli.main(["audit", str(path), "--input", str(tmp_path / "images.npy"), "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["layers"]:
        assert (row["saturated"] is None) == (row["pairs"] == "exact")


@pytest.mark.parametrize("mode", MODES)
def test_run(model, tmp_path, capsys, mode):
    case, path = model
    np.save(tmp_path / "images.npy", case.images)
    out = tmp_path / "out.npz"
    arguments = ["run", path, "--input", tmp_path / "images.npy", "--output", out, "--threads", 2, "--mode", mode]
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().out == "classifier.out: float32 [5, 5]\nconcat.out: float32 [5, 22, 8, 6]\n"
    graph = case.graph if mode == "fast" else case.graph.with_accumulator(NAMED["int32"])
    with np.load(out) as arrays:
        assert arrays.files == list(case.graph.outputs)
        for name, values in zip(case.graph.outputs, Reference(graph).run(case.images).outputs, strict=True):
            np.testing.assert_array_equal(arrays[name], values)


def test_bench(model, tmp_path, capsys):
    case, path = model
    assert cli.main(["bench", str(path), "--shape", "3,16,12", "--mode", "fast"]) == 0
    out = capsys.readouterr().out
    assert "mode fast" in out and "dilated" in out and "ms" in out and "[3, 16, 12]" in out
    exported = export_onnx(case.graph, (3, 8, 8), tmp_path / "m.onnx")
    assert cli.main(["bench", str(exported)]) == 0  # the model says how large its images are
    assert "[3, 8, 8]" in capsys.readouterr().out


def test_bench_with_a_profile(model, capsys):
    case, path = model
    assert cli.main(["bench", str(path), "--shape", "3,16,12", "--profile", "--threads", "2"]) == 0
    times, profile = capsys.readouterr().out.split("\n\n")
    assert times.endswith("runs of one image")
    lines = profile.splitlines()
    assert lines[0].split() == ["node", "operator", "ms", "share", "MAC/cycle", "MAC/ns", "route"]
    assert [line.split()[0] for line in lines[1:-2]] == [node.name for node in case.graph.nodes]
    assert lines[-2].startswith("all") and "100.0 %" in lines[-2] and "GHz" in lines[-1] and "2 thread(s)" in lines[-1]
    assert "depthwise, 32 bit" in profile  # random weights: pairs of taps would not fit 16


def test_export(model, tmp_path, capsys):
    case, path = model
    out = tmp_path / "m.onnx"
    assert cli.main(["export", str(path), str(out), "--shape", "3,16,12"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert len(import_onnx(out).nodes) == len(case.graph.nodes)
    again = tmp_path / "again.onnx"
    assert cli.main(["export", str(out), str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()


def test_foreign_models_are_audited_and_exported(tmp_path, capsys):
    path = quantized_network(tmp_path)
    assert cli.main(["audit", str(path)]) == 0
    assert cli.main(["export", str(path), str(tmp_path / "again.onnx")]) == 0
    out = capsys.readouterr().out
    assert "c2.Conv" in out and "5 of 5 layers audited." in out
    assert isinstance(import_onnx(tmp_path / "again.onnx"), Graph)


def errors(arguments, capsys) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_bad_input(model, tmp_path, capsys):
    case, path = model
    assert "none.onnx" in errors(["audit", tmp_path / "none.onnx"], capsys)
    assert "none.npz" in errors(["audit", tmp_path / "none.npz"], capsys)
    assert "expected .onnx or .npz" in errors(["audit", tmp_path / "model.pt"], capsys)
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01\x02")
    assert "bad.onnx" in errors(["audit", tmp_path / "bad.onnx"], capsys)
    assert "\\x1b[31mnone\\n.onnx" in errors(["audit", tmp_path / "\x1b[31mnone\n.onnx"], capsys)
    assert "--shape C,H,W" in errors(["bench", path], capsys)
    assert "--shape C,H,W" in errors(["export", path, tmp_path / "m.onnx"], capsys)
    assert "3 channels" in errors(["export", path, tmp_path / "m.onnx", "--shape", "1,8,8"], capsys)
    for name, content in {
        "float64": case.images.astype(float),
        "flat": case.images[0],
        "none": case.images[:0],
    }.items():
        np.save(tmp_path / f"{name}.npy", content)
        message = errors(["run", path, "--input", tmp_path / f"{name}.npy", "--output", tmp_path / "o.npz"], capsys)
        assert f"{name}.npy: found" in message and "float32 [N, C, H, W]" in message
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for name in ("objects.npy", "nowhere.npy", "bad.onnx", "graph.npz"):
        assert name in errors(["run", path, "--input", tmp_path / name, "--output", tmp_path / "o.npz"], capsys)
    assert not (tmp_path / "o.npz").exists() and not (tmp_path / "m.onnx").exists()


def test_names_from_models_are_escaped(model, tmp_path, capsys):
    case, _ = model
    name, path = "\x1b[2J\nout", tmp_path / "m.npz"
    graph = replace(case.graph, outputs=(name,), nodes=(*case.graph.nodes[:-2], Dequantize(name, ("classifier",))))
    graph.save(path)
    np.save(tmp_path / "i.npy", case.images)
    arguments = ["run", str(path), "--input", str(tmp_path / "i.npy"), "--output", str(tmp_path / "o.npz")]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == "\\x1b[2J\\nout: float32 [5, 5]\n"
    assert r"\x1b" in errors(["bench", tmp_path / "\x1b.npz", "--shape", "3,16,12"], capsys)


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["audit"], ["bench", "m.npz", "--shape", "3,4"], ["bench", "m.npz", "--shape", "3,0,4"],
     ["bench", "m.npz", "--shape", "3,x,4"], ["bench", "m.npz", "--threads", "0"], ["run", "m.npz"]],
)  # fmt: skip
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2 and "usage" in capsys.readouterr().err


def test_as_a_program_without_torch_and_without_onnx(model):
    """An audit of a graph needs NumPy, and rich for the table."""
    _, path = model
    program = f"""
import sys
for name in ("torch", "pytorch_lightning", "hydra", "onnx", "onnxruntime", "pandas", "scipy"):
    sys.modules[name] = None
sys.argv = ["oaq_repro.integer", "audit", {str(path)!r}]
import runpy
runpy.run_module("oaq_repro.integer", run_name="__main__")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "stem" in result.stdout


def test_as_a_program_with_bad_input(tmp_path):
    command = [sys.executable, "-m", "oaq_repro.integer", "audit", str(tmp_path / "none.onnx")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_import_without_torch(tmp_path):
    """ONNX models are read and written without torch."""
    path = export_onnx(small_network().graph, (3, 16, 12), tmp_path / "m.onnx")
    program = f"""
import sys
for name in ("torch", "pytorch_lightning", "hydra", "onnxruntime"):
    sys.modules[name] = None
from oaq_repro.integer.onnx.exporter import export_onnx
from oaq_repro.integer.onnx.importer import import_with_shape
export_onnx(*import_with_shape({str(path)!r}), {str(path)!r} + ".again")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
