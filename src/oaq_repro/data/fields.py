"""Types of data sets' fields; values of annotation files: each is what it should be, or one clear InputError."""

import math
import reprlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from oaq_repro.errors import InputError, escaped
from oaq_repro.fields import ReadBy, Size, Text

Sides = Size | tuple[Size, Size]
"""One side in pixels, or height and width."""
Names = Annotated[tuple[Text, ...], MinLen(1)]
"""Of classes."""


def year_as_text(year: Any) -> Any:
    """A year as VOC names it: YAML and the command line read 07 as a number."""
    return f"{year:02d}" if isinstance(year, int) and not isinstance(year, bool) else year


Year = Annotated[Literal["07", "12", "07+12"], ReadBy(year_as_text)]

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


def both_sides(sides: Sides) -> tuple[int, int]:
    """Return (height, width) from one side or from both."""
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def unique_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names if no two are equal; InputError otherwise."""
    require_unique("data.classes", names, "every name once")
    return tuple(names)


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
