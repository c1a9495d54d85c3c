"""The base install: audit, engine and ONNX work without the extra `train`, and what needs it says so in one line."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from oracles.random_graphs import random_graph

from oaq_repro.extras import MODULES
from oaq_repro.integer.engine import Engine

ROOT = Path(__file__).resolve().parents[1]


def canonical(requirement: str) -> str:
    """Name of a distribution, from a requirement with a version."""
    return requirement.split(">")[0].split("=")[0].strip().lower().replace("_", "-")


def without_train(program: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A process in which the modules of the extra cannot be imported."""
    names = [*MODULES["train"], "lightning_fabric", "omegaconf", "mmseg"]
    blocked = f"import runpy, sys\nfor name in {names!r}: sys.modules[name] = None\n"
    command = [sys.executable, "-c", blocked + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def module(name: str) -> str:
    return f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"


def test_the_modules_are_those_of_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {canonical(requirement) for requirement in project["optional-dependencies"]["train"]}
    owners = packages_distributions()
    assert {canonical(name) for found in MODULES["train"] for name in owners[found]} >= asked
    assert len(MODULES["train"]) == len(asked)
    assert {canonical(requirement) for requirement in project["dependencies"]} == {"numpy", "onnx", "pydantic", "rich"}
    for extra, requirements in project["optional-dependencies"].items():
        assert extra == "train" or "oaq-repro[train]" in requirements


def test_audit_engine_import_and_export_need_the_base_alone(tmp_path: Path) -> None:
    graph, shape = random_graph(0)
    graph.save(tmp_path / "model.npz")
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    sides = ",".join(map(str, shape))
    for command in (
        ["export", "model.npz", "model.onnx", "--shape", sides],
        ["audit", "model.npz"],
        ["audit", "model.onnx"],
        ["audit", "model.onnx", "--json"],
        ["run", "model.onnx", "--input", "images.npy", "--output", "outputs.npz"],
    ):
        done = without_train(module("oaq_repro.integer"), *command, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout, done.stderr
    with np.load(tmp_path / "outputs.npz") as found:
        for wanted, name in zip(Engine(graph, shape).run(images), found.files, strict=True):
            np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-m", "method=int8,oaq"]])
def test_a_missing_extra_is_one_line_that_names_it(arguments: list[str]) -> None:
    done = without_train(module("oaq_repro"), *arguments)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith("error: found no filelock, hydra, ") and "the extra 'train'" in line


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_scripts_name_the_extra_too(script: str) -> None:
    done = without_train(f"runpy.run_path({str(ROOT / 'scripts' / script)!r}, run_name='__main__')")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and "the extra 'train'" in line
