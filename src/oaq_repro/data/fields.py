"""Values of configurations and of annotation files: each is what it should be, or one clear InputError."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from oaq_repro.errors import InputError, escaped

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def unexpected(where: object, found: object, expected: object, kind: type[InputError] = InputError) -> InputError:
    """Return the error for bad input: what file or field, what was found there, what should have been.

    Characters that a terminal would act on (they may come from the names of files) are escaped.
    """
    return kind(escaped(f"{where}: found {found}; expected {expected}"))


def shown(value: Any) -> str:
    """Return a value from a file for a message, shortened where it is long."""
    return _SHORT.repr(value)


def check_integer(field: str, value: Any, least: int) -> int:
    """Return `value` if it is an integer of at least `least`; InputError naming the field otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise unexpected(f"data.{field}", repr(value), f"an integer of at least {least}")
    return value


def check_fraction(field: str, value: Any) -> float:
    """Return `value` if it is a probability; InputError naming the field otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise unexpected(f"data.{field}", repr(value), "a number from 0 to 1")
    return float(value)


def check_sides(field: str, value: Any) -> tuple[int, int]:
    """Return (height, width) from one side or from both; InputError naming the field otherwise."""
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    if len(sides) != 2:
        raise unexpected(f"data.{field}", repr(value), "one side, or [height, width]")
    return check_integer(field, sides[0], 1), check_integer(field, sides[1], 1)


def check_names(field: str, value: Sequence[str]) -> tuple[str, ...]:
    """Return class names if there are some and no two are equal; InputError naming the field otherwise."""
    if isinstance(value, str) or not value or not all(isinstance(name, str) for name in value):
        raise unexpected(f"data.{field}", shown(value), "a list of names")
    require_unique(f"data.{field}", value, "every name once")
    return tuple(value)


def require_unique(where: object, values: Sequence[Any], expected: str) -> None:
    """InputError naming the first value that stands there twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise unexpected(where, f"{value} more than once", expected)
        seen.add(value)


def number(value: Any, where: object) -> float:
    """Return a number of an annotation file, which may be written as text; InputError unless it is finite."""
    found = _float(value)
    if not math.isfinite(found):
        raise unexpected(where, shown(value), "a finite number")
    return found


def integer(value: Any, where: object) -> int:
    """Return an integer of 64 bits, which may be written as text or with a fraction of zero (as pandas does)."""
    try:
        exact = int(value) if isinstance(value, str) else value  # a float could not hold all digits
    except ValueError:
        exact = value
    found = exact if isinstance(exact, int) and not isinstance(exact, bool) else _float(value)
    if not -(2**63) <= found < 2**63 or found != int(found):
        raise unexpected(where, shown(value), "an integer")
    return int(found)


def _float(value: Any) -> float:
    """The number that a value is or names; nan where there is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
