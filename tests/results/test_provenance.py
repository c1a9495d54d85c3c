import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from oaq_repro.results import provenance as room


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    package = tmp_path / "src" / "oaq_repro"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    _git(tmp_path, "init", "-q")
    return tmp_path


def test_checkout_revision_and_dirty_flag(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = checkout / "src" / "oaq_repro"
    assert room.git_state(package)["git_reason"] == "the checkout has no commit yet"
    _git(checkout, "add", ".")
    _git(checkout, "commit", "-qm", "first", "--no-verify")
    clean = room.git_state(package)
    assert clean == {"git_revision": _git(checkout, "rev-parse", "HEAD"), "git_dirty": False, "git_reason": None}
    (package / "new.py").write_text("")
    monkeypatch.setenv("GIT_DIR", "elsewhere")  # as inside a hook
    assert room.git_state(package) == clean | {"git_dirty": True}


def test_wheel_inside_a_checkout_is_not_the_checkout(checkout: Path) -> None:
    installed = checkout / ".venv" / "lib" / "oaq_repro"
    installed.mkdir(parents=True)
    state = room.git_state(installed)
    assert state["git_revision"] is None
    assert "installed" in state["git_reason"]


def test_no_checkout_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.git_state(tmp_path)["git_reason"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert room.git_state(tmp_path)["git_reason"] == "git is not installed"


def test_provenance_is_a_valid_section() -> None:
    started = room.utc_now()
    assert datetime.fromisoformat(started).utcoffset() == timedelta(0)
    found = room.provenance(
        dataset="d", dataset_fingerprint="f", started=started, wall_time_s=1.5, kernels="avx2", error="stopped"
    )
    assert found.packages["python"] == sys.version.split()[0]
    assert "numpy" in found.packages
    assert found.hardware.cpu
    assert found.hardware.cores >= 1
    assert (found.git_revision is None) == (found.git_reason is not None)
    assert (found.error, found.kernels, found.parent_hash) == ("stopped", "avx2", None)


@pytest.mark.parametrize(("initialised", "expected"), [(True, "some GPU"), (False, None)])
def test_gpu_is_named_when_it_was_used(
    monkeypatch: pytest.MonkeyPatch, initialised: bool, expected: str | None
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: initialised, get_device_name=lambda: "some GPU"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert room.hardware().gpu == expected
