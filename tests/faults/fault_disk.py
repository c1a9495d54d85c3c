"""A disk that is full and grows: an error of one line each time, nothing lost, and the same records in the end."""

import os
import resource
import subprocess

import pytest
from faults.sweeping import assert_undisturbed, call, leftovers, start

PARTS = (0.01, 0.1, 0.25, 0.4, 0.6, 0.8, 0.95)  # of the space that the finished sweep takes


@pytest.fixture
def disk(tmp_path):
    """Changes the size of a disk of its own, in bytes, and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size):
        options = f"size={size}" + (",remount" if os.path.ismount(folder) else "")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
        return folder

    try:
        resize(1 << 16)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk of a chosen size can be mounted here ({error})")
    yield resize
    subprocess.run(["umount", folder], check=True)


def errors(error):
    return [line for line in error.splitlines() if line.startswith("error: ")]


def test_a_disk_that_grows(disk, reference):
    whole = sum(path.stat().st_size for path in reference.rglob("*") if path.is_file())
    for part in PARTS:
        results = disk(max(int(whole * part), 4096)) / "results"
        status, error = call(results, cwd=results.parent.parent / "working")
        assert status == 1 and errors(error), error
        assert all("No space left on device" in line for line in errors(error))
        assert not [name for name in leftovers(results) if "/." in name]
    results = disk(4 * whole) / "results"
    assert call(results, cwd=results.parent.parent / "working")[0] == 0
    assert_undisturbed(results, reference)


@pytest.mark.parametrize("size", [1 << 10, 1 << 14, 1 << 17])
def test_files_that_may_not_grow(results, reference, size):
    """As a quota does it: large files are refused, small ones are not."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    process = start(results)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    _, error = process.communicate()
    assert process.returncode == 1 and "Traceback" not in error, error
    assert all("File too large" in line for line in errors(error))
    assert call(results)[0] == 0
    assert_undisturbed(results, reference)
