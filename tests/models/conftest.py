import pytest


@pytest.fixture(autouse=True)
def every_test_on_one_thread(one_thread):
    """Switches `one_thread` on for this room."""
