"""Small checks on fields, folders and lists, each with one clear InputError."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oaq_repro.errors import InputError


def unexpected(where: object, found: object, expected: object) -> InputError:
    """Return the error for bad input: what file or field, what was found there, what should have been."""
    return InputError(f"{where}: found {found}; expected {expected}")


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


def require_folder(folder: Path | None, what: str = "the data") -> Path:
    """Return the folder; InputError where it is absent."""
    if folder is None:
        raise unexpected("data.root", "nothing", f"the folder with {what}")
    if not folder.is_dir():
        raise unexpected(folder, "no such folder", f"{what} there (data.root=... chooses another place)")
    return folder


def read_list(path: Path) -> list[str]:
    """Return the first word of every line that is not empty; InputError for a missing, empty or repeating list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"an unreadable file ({error})"
        raise unexpected(path, reason, "a list of image names") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise unexpected(path, "an empty list", "image names, one per line")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise unexpected(path, f"{twice} more than once", "every image once")
    return names


def index_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return name without suffix -> file, for the files of these suffixes (in any case) in a folder."""
    require_folder(folder, f"files *{' *'.join(suffixes)}")
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes}
