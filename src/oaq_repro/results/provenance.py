"""Where a run comes from: source revision, package versions, machine, time. Reads, never guesses."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from oaq_repro.results.sections import Hardware, Provenance

PACKAGES = (
    "oaq_repro",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "timm",
    "mmsegmentation",
    "hydra-core",
    "numpy",
    "scipy",
    "pycocotools",
    "onnx",
    "onnxruntime",
)


def utc_now() -> str:
    """The time now: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state(package: Path | None = None) -> dict[str, Any]:
    """Fields git_revision, git_dirty, git_reason of the checkout that holds the package's source.

    `package` is the package's folder, by default this one. Only a checkout with this very folder as
    `src/oaq_repro` counts: a wheel in a virtual environment inside some checkout is not that checkout.
    Dirty means that `git status` lists anything, untracked files included.
    """
    package = (package or Path(__file__).parents[1]).resolve()
    try:
        top = Path(_git(package, "rev-parse", "--show-toplevel").strip()).resolve()
        if top / "src" / package.name != package:
            return _unknown("the package is installed, not run from a checkout")
        revision = _git(package, "rev-parse", "--verify", "--quiet", "HEAD").strip()
        return {
            "git_revision": revision,
            "git_dirty": bool(_git(top, "status", "--porcelain").strip()),
            "git_reason": None,
        }
    except FileNotFoundError:
        return _unknown("git is not installed")
    except subprocess.TimeoutExpired:
        return _unknown("git did not answer in time")
    except subprocess.CalledProcessError as error:
        if "rev-parse" in error.cmd and "HEAD" in error.cmd:
            return _unknown("the checkout has no commit yet")
        return _unknown("the source is not in a git checkout that git can read")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a number depends on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> Hardware:
    """CPU model, cores that this process may use, memory in GiB, and the GPU when torch has initialised one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Hardware(cpu=_cpu_model(), cores=cores, memory_gib=_memory_gib(), gpu=_gpu())


def provenance(
    *,
    dataset: str,
    dataset_fingerprint: str,
    started: str,
    wall_time_s: float,
    parent_hash: str | None = None,
    checkpoint_hash: str | None = None,
    kernels: str | None = None,
    error: str | None = None,
) -> Provenance:
    """Provenance of a run that began at `started` (see `utc_now`) and took `wall_time_s` seconds.

    `error` is what ended a run that did not finish; the hashes are of weights; `kernels` is the engine's
    instruction set (`Engine.isa`).
    """
    return Provenance(
        **git_state(),
        packages=package_versions(),
        dataset=dataset,
        dataset_fingerprint=dataset_fingerprint,
        hardware=hardware(),
        wall_time_s=wall_time_s,
        started=started,
        parent_hash=parent_hash,
        checkpoint_hash=checkpoint_hash,
        kernels=kernels,
        error=error,
    )


def _unknown(reason: str) -> dict[str, Any]:
    return {"git_revision": None, "git_dirty": None, "git_reason": reason}


def _git(folder: Path, *arguments: str) -> str:
    # A hook sets GIT_DIR and its kin for another repository; they must not leak into the answer.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=environment)
    return result.stdout


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model", "Hardware") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpu() -> str | None:
    # Looked up, not imported: importing torch takes seconds, and a run that used a GPU has imported it.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return str(torch.cuda.get_device_name())
