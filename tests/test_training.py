import os

import pytest
import torch

from oaq_repro.errors import InputError
from oaq_repro.training import OMP_THREADS, torch_threads


@pytest.mark.parametrize("variable", [None, "7"])
def test_threads_are_those_asked_for_and_then_as_before(variable, monkeypatch):
    monkeypatch.delenv(OMP_THREADS, raising=False)
    if variable is not None:
        monkeypatch.setenv(OMP_THREADS, variable)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        assert os.environ[OMP_THREADS] == str(before + 1)
        raise KeyError
    assert torch.get_num_threads() == before
    assert os.environ.get(OMP_THREADS) == variable


def test_null_leaves_the_threads_to_torch():
    before = torch.get_num_threads(), os.environ.get(OMP_THREADS)
    with torch_threads(None):
        assert (torch.get_num_threads(), os.environ.get(OMP_THREADS)) == before


@pytest.mark.parametrize("count", [0, -1, 1025, 1.5, True, "2"])
def test_wrong_numbers_of_threads(count):
    with (
        pytest.raises(InputError, match="threads: found .*, expected an integer from 1 to 1024, or null"),
        torch_threads(count),
    ):
        pass
