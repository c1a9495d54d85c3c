import math
from typing import Any

import pytest
from composing import built
from hypothesis import given
from hypothesis import strategies as st

from oaq_repro.data.fields import integer, number, unexpected, unique_names
from oaq_repro.errors import InputError


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(-1e15, 1e15).map(math.floor)))
def test_integers_are_read_from_every_notation(value: int) -> None:
    assert integer(value, "f") == integer(str(value), "f") == value
    if abs(value) < 2**53:
        assert integer(float(value), "f") == integer(f"{value}.0", "f") == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_text(value: float) -> None:
    assert number(value, "f") == number(repr(value), "f") == value


@pytest.mark.parametrize(
    "value", [None, True, "", "x", [1], {}, math.nan, math.inf, "nan", "inf", "1e999", 10**400, "9" * 400, "9" * 9000]
)
def test_what_is_no_number(value: Any) -> None:
    for read, expected in ((number, "a finite number"), (integer, "an integer")):
        with pytest.raises(InputError, match=f"a.json: id: found .{{1,70}}; expected {expected}"):
            read(value, "a.json: id")


@pytest.mark.parametrize("value", [1.5, "1.5", 2**63, 1e300, str(2**63)])
def test_numbers_that_are_no_integers(value: Any) -> None:
    with pytest.raises(InputError, match="expected an integer"):
        integer(value, "f")


def test_messages_are_one_line_that_a_terminal_does_not_act_on() -> None:
    """Names of files may hold anything but a slash."""
    assert str(unexpected("a\x1b[2J\nb\udcff.jpg", "x", "é")) == "a\\x1b[2J\\nb\\udcff.jpg: found x; expected é"


def test_names() -> None:
    assert unique_names(("a", "b")) == ("a", "b")
    for names, message in (
        (["a", "a"], "s: found a more than once"),
        ("cat", "s: found 'cat'"),
        ([], r"s: found \[\]"),
        ([1], "s.0: found 1"),
    ):
        with pytest.raises(InputError, match=f"data.classe{message}"):
            built("data", "data=voc_detection", f"data.classes={names}")
