import pytest

from oaq_repro.command_line import ended
from oaq_repro.errors import InputError


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error, status, line",
    [
        (InputError("a.npz: found x"), 2, "error: a.npz: found x\n"),
        (InputError("a\x1b[2J: found x"), 2, "error: a\\x1b[2J: found x\n"),
        (OSError("full"), 2, "error: full\n"),
        (KeyboardInterrupt(), 130, "interrupted; what was finished is written\n"),
    ],
)
def test_an_end_is_a_status_and_a_line(error, status, line, capsys):
    assert ended(raising(error), OSError) == status
    assert capsys.readouterr().err == line


def test_a_defect_is_a_traceback():
    with pytest.raises(OSError):
        ended(raising(OSError("full")))


@pytest.mark.parametrize("result, status", [(None, 0), (0, 0), (1, 1)])
def test_work_has_a_status_of_its_own(result, status):
    assert ended(lambda: result) == status
