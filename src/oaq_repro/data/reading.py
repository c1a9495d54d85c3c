"""The border to the user's files: whatever opening or parsing one can raise becomes one InputError that names it."""

import json
import stat
import xml.etree.ElementTree as ET
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oaq_repro.data.fields import unexpected
from oaq_repro.errors import InputError

SHOWN = 5
"""How many missing files a message names."""


class MissingError(InputError):
    """A file or folder is not there."""


@contextmanager
def reading(where: Path | str, what: str, expected: str) -> Iterator[None]:
    """Turn everything that goes wrong inside into one InputError: `where` is a damaged `what`.

    A path must be that of an ordinary file: a pipe would block for ever, a device never end. Only calls of
    parsers and decoders belong inside: errors of our own would be blamed on the file.
    """
    try:
        if isinstance(where, Path) and not stat.S_ISREG(where.stat().st_mode):
            raise unexpected(where, "a folder, a pipe or a device", f"a file: {expected}")
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise unexpected(where, "no such file", expected, MissingError) from None
    except Exception as error:
        raise unexpected(where, f"a damaged {what} ({_reason(error)})", expected) from None


def _reason(error: Exception) -> str:
    """One line on what a reader has raised."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text.splitlines()[0][:200]


def require_folder(folder: Path | None, what: str = "the data") -> Path:
    """Return the folder; InputError where it is absent."""
    if folder is None:
        raise unexpected("data.root", "nothing", f"the folder with {what}")
    if not folder.is_dir():
        text = f"{what} there (data.root=... chooses another place)"
        raise unexpected(folder, "no such folder", text, MissingError)
    return folder


def names_in(folder: Path, what: str) -> list[str]:
    """Return the sorted names in a folder; InputError where it is absent or closed."""
    require_folder(folder, what)
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise unexpected(folder, f"an unreadable folder ({error.strerror})", what) from None


def index_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return name without suffix -> file, for the files of these suffixes (in any case) in a folder.

    InputError where two differ in nothing but the suffix.
    """
    found: dict[str, Path] = {}
    for name in names_in(folder, f"files *{' *'.join(suffixes)}"):
        path = folder / name
        if path.suffix.lower() in suffixes:
            if path.stem in found:
                raise unexpected(path, f"{found[path.stem].name} beside it", "one file of a name")
            found[path.stem] = path
    return found


def require_files(folder: Path, wanted: Sequence[str], present: Collection[str], why: str, suffix: str = "") -> None:
    """InputError that names the first of the `wanted` files that are not `present`, and says how many more are not."""
    absent = [f"{name}{suffix}" for name in wanted if name not in present]
    if absent:
        others = f", nor are {len(absent) - 1} more of {len(wanted)} there: " if len(absent) > 1 else ""
        others += ", ".join(absent[1 : SHOWN + 1]) + (", ..." if len(absent) > SHOWN + 1 else "")
        raise unexpected(folder / absent[0], f"no such file{others}", why, MissingError)


def read_lines(path: Path, expected: str) -> list[str]:
    """Return the lines that are not empty, without white space around them; InputError where there is none."""
    with reading(path, "list", expected):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise unexpected(path, "an empty list", expected)
    return lines


def read_json(path: Path, expected: str) -> Any:
    """Return the content of a json file (UTF-8, 16 or 32)."""
    with reading(path, "json", expected):
        return json.loads(path.read_bytes())


def read_xml(path: Path, expected: str) -> ET.Element:
    """Return the root of an xml file."""
    with reading(path, "xml", expected):
        return ET.parse(path).getroot()
