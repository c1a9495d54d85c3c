import os
import stat

import pytest

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic


@pytest.mark.parametrize("content", ["text", b"bytes", lambda path: path.write_text("written")])
def test_writes_and_replaces(tmp_path, content):
    path = tmp_path / "new" / "file.txt"
    assert write_atomic(path, "old") == path
    write_atomic(path, content)
    assert path.read_text() in ("text", "bytes", "written")
    assert os.listdir(path.parent) == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_old_file_survives_a_failed_write(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fails(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="file.txt: cannot be written .No space left on device"):
        write_atomic(path, fails)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_an_interruption_leaves_no_rubbish(tmp_path):
    def interrupted(temporary):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file.txt", interrupted)
    assert os.listdir(tmp_path) == []
