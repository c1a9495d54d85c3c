"""Fixtures that every room's tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if os.environ.get("OAQ_TEST_ISA") == "avx2":  # `make test-avx2`; before anything imports torch or ONNX Runtime
    from oaq_repro.benchmark.restrict import restrict_to_avx2

    restrict_to_avx2()

from oaq_repro.hints import HINTS

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Hide what the command line hides, and what is said of the tests' own data where no test expects it."""
    for filter in (*(f"ignore:{message}" for message in HINTS), "ignore::oaq_repro.data.notes.DataWarning"):
        config.addinivalue_line("filterwarnings", filter)


@pytest.fixture
def shared_data() -> Path:
    """Folder of small real data sets beside the checkout; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data folder {SHARED_DATA.name}/ is not beside the checkout")
    return SHARED_DATA


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: the networks are tiny, and tests run side by side."""
    import torch  # here, since most rooms' tests do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
