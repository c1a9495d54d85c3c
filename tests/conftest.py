"""Fixtures that every room's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
