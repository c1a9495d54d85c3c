"""What is said of settings that do not fit their form: one line per field."""

import json
import re
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any

from pydantic import ValidationError

from oaq_repro.settings.forms import at, fields_beside
from oaq_repro.settings.kinds import KINDS

SHOULD = re.compile(r"^\w+ should (be|have) ")
"""How pydantic's messages begin."""
COPIES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("quantization", "accumulator"): ("accumulator",),
    ("data", "seed"): ("seed",),
    ("method", "interval"): ("schedule", "controller_interval"),
}
"""Where the configuration refers to another field, of which one line is enough."""


def about_kind(section: str, settings: Any) -> str | None:
    """What is wrong with a section's `kind`, None where it is known."""
    known = f"expected one of {', '.join(KINDS[section])}"
    if not isinstance(settings, Mapping):
        return f"{section}: found {shown(settings)}, {known} ({section}=<name>)"
    found = settings.get("kind")
    if isinstance(found, str) and found in KINDS[section]:
        return None
    return f"{section}.kind: found {shown(found)}, {known}"


def about_fields(form: Any, settings: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """One line per field: where, what was found, what is expected by all forms that it may have."""
    problems: dict[tuple[str, ...], list[Any]] = {}
    for problem in error.errors(include_url=False):
        problems.setdefault(_place(settings, problem["loc"]), []).append(problem)
    for where, found in problems.items():
        name, first = ".".join(where), found[0]
        original = COPIES.get(where[:2])
        if original is not None and _json(at(settings, where[:2])) == _json(at(settings, original)):
            continue
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield f"{name}: no such field; expected one of {', '.join(fields_beside(form, where))}"
        elif first["type"] == "value_error":  # said by the class, about its fields
            text = str(first["ctx"]["error"]).removeprefix(where[-1])
            yield f"{name}{text}" if text.startswith((".", ":")) else f"{name}.{text}"
        else:
            value = "nothing" if first["type"] == "missing" else shown(first["input"])
            texts = dict.fromkeys(SHOULD.sub("", problem["msg"]) for problem in found)
            yield f"{name}: found {value}, expected {' or '.join(texts)}"


def _place(settings: Any, location: tuple[Any, ...]) -> tuple[str, ...]:
    """The part of pydantic's location that names fields; the rest names branches of a union."""
    where: list[str] = []
    for part in location:
        inside = settings.get(part, ...) if isinstance(settings, Mapping) else ...
        if isinstance(settings, list) and isinstance(part, int):
            inside = settings[part] if part < len(settings) else None  # too few
        missing = isinstance(settings, Mapping) and part is location[-1]
        if inside is not ... or missing:
            where.append(str(part))
            settings = inside
    return tuple(where)


def shown(value: Any) -> str:
    """A value for a message, as one writes it in YAML."""
    return repr(value) if isinstance(value, str) and len(value) <= 80 else shorten(_json(value), 80)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
