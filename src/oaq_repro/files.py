"""Files of any origin are read with care and written atomically (the old one or the new one); checksums of them."""

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from oaq_repro.errors import InputError

TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.\w+)?")  # as mkstemp names them below


def open_regular(path: Path | str, expected: str) -> IO[bytes]:
    """Open a file for reading; InputError (that does not name the file) where it is none, or a pipe or device.

    A pipe would be waited for, a device would never end. `expected`: what the file should be, for the message.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise InputError(f"found no such file, expected {expected}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be read ({getattr(error, 'strerror', None) or error}), expected {expected}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"cannot be read (no plain file), expected {expected}")
    return os.fdopen(descriptor, "rb")


def write_atomic(path: Path | str, write: Callable[[Path], None] | str | bytes) -> Path:
    """Write a file beside `path` and rename it into place.

    `write` is the content, or a function that writes to the path it is given (for writers such as
    `np.savez` or `plt.savefig`; that path keeps the suffix of `path`).
    Raises InputError when the disk refuses; whatever stood at `path` before is untouched then.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
        temporary = Path(name)
        os.close(handle)
        if callable(write):
            write(temporary)
        elif isinstance(write, bytes):
            temporary.write_bytes(write)
        else:
            temporary.write_text(write, encoding="utf-8")
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; results are for everybody
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); nothing at that place was changed"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def remove_temporary(folder: Path) -> None:
    """Remove what a killed process left of its writes below `folder`, where nobody may be writing."""
    for path in folder.rglob(".*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def json_checksum(content: Mapping[str, Any]) -> str:
    """Sha256 (hex) of a JSON object without its own key `checksum`, whatever the order of keys and the layout."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path | str) -> str:
    """Sha256 (hex) of a file's content; InputError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
