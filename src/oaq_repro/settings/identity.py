"""What identifies a run, its float parent and its fine-tuning: the science of the settings, where no default says it.

Only fields that differ from their defaults count, by their names and by kinds, so that neither a field that is new nor
a module that moves gives an earlier run another hash. What a field means for the science stands beside it (`fields`).
Where the default of a new field does something else than was done before there was the field, SILENCE says what.
"""

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from oaq_repro.errors import InputError
from oaq_repro.fields import BY_CONTENT, IN_ORDER, NO_SCIENCE
from oaq_repro.files import file_hash
from oaq_repro.results.store import short_hash
from oaq_repro.settings.forms import at, fields_beside, locate
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.sections import RunSettings

VERSION = 2
"""Of the identity. 1 hashed import paths and defaults; `scripts/rekey.py` brings records from it."""

SILENCE: dict[str, Any] = {
    "quantization.granularity": "tensor",
    "method.split": "even",
    "method.settle.split": "even",
    "method.settle.margin": 1.15,
    "method.share": 0.0,
}
"""What was done before a field existed, where its default does something else: path of the field -> value.

Such a field counts where it differs from this value, so that a run of before and a run with the default are two. An
entry comes with the field, for example `"quantization.rounding": "half_up"`.
"""


class File:
    """Stands in a dump for the content of a file. No dataclass, which pydantic would write as its fields."""

    def __init__(self, path: str) -> None:
        self.path = path


OMITTED = object()
WRITTEN = {
    NO_SCIENCE: lambda value: OMITTED,
    BY_CONTENT: lambda path: path if path is None else File(path),
    IN_ORDER: lambda mapping: list(mapping.values()),
}
"""What stands in the identity in the place of a marked field's value."""

PARENT: dict[str, Any] = {"task": True, "data": True, "model": True, "trainer": True, "schedule": {"float"}}
FINE_TUNED = PARENT | {"schedule": True, "method": True, "quantization": True}
TEACHING = {"teacher", "temperature"}
"""Fields of a task that are those of fine-tuning."""
PREPARED = PARENT | {"schedule": {"float", "prepare"}, "method": True}
AFTER = {"settle", "bias_correction"}
"""Fields of a method that are of what follows fine-tuning."""
ACCUMULATORS = {"accumulator", "reason", "granularity"}
AFTER_FOLDING = {"requantization", "calibration_batches"}
"""Fields of quantization of which the stage before folding knows nothing."""


def science(settings: RunSettings, parts: Mapping[str, Any] = FINE_TUNED) -> dict[str, Any]:
    """Of these parts of a run's settings what differs from the defaults and changes what is measured.

    InputError for a checkpoint that cannot be read.
    """
    dumped = settings.model_dump(include=dict(parts), exclude_defaults=True, context=WRITTEN)
    found: dict[str, Any] = _finished(dumped, "")
    if not prepares(settings):
        found.get("schedule", {}).pop("prepare", None)
    for path, meant in SILENCE.items():
        section, *inner, name = where = path.split(".")
        value = at(settings.model_dump(), where)
        part = parts.get(section, ())
        if value is ... or (part is not True and where[1] not in part):
            continue
        place = found[section]
        for key in inner:
            place = place.setdefault(key, {})
        place[name] = value
        if value == meant:
            _remove(found, where, type(settings))
    return found


def prepares(settings: RunSettings) -> frozenset[str]:
    """The fields of the method that its stage before folding depends on; none: it has no such stage."""
    own: frozenset[str] = _method(settings).prepares
    return own | {"kind"} if own else frozenset({"pruning"} if settings.method.pruning is not None else ())


def _method(settings: RunSettings) -> Any:
    """The class of the method."""
    return locate(KINDS["method"][settings.method.kind].target)


def _remove(found: dict[str, Any], where: list[str], form: Any) -> None:
    """Take a field out of a dump, and with it the objects around that are then their defaults."""
    *parents, name = where
    place = at(found, parents)
    del place[name]
    if not place and is_dataclass(fields_beside(form, parents)[parents[-1]][1]):
        _remove(found, parents, form)


def run_hash(settings: RunSettings, fingerprint: str) -> str:
    """Name of an experiment, 16 hexadecimal digits; the seed is the folder level below.

    settings: of a whole run. fingerprint: what the data are (`DataModule.fingerprint`). InputError as `science`.
    """
    return hash_of(science(settings), fingerprint)


def hash_of(found: Mapping[str, Any], fingerprint: str) -> str:
    """The hash of what `science` found."""
    content = {"version": VERSION, "settings": found, "data": fingerprint}
    return short_hash(json.dumps(content, sort_keys=True, separators=(",", ":")))


def parent_hash(settings: RunSettings, fingerprint: str) -> str:
    """Name of the float parent, which all methods share."""
    found = science(settings, PARENT)
    found["task"] = _without(found["task"], TEACHING)
    return hash_of(found, fingerprint)


def prepared_hash(settings: RunSettings, fingerprint: str) -> str:
    """Name of what the stage before folding trains.

    Runs share it that differ in quantization alone; pruned networks train with their bits, by whichever method these
    are quantized afterwards.
    """
    pruning = settings.method.pruning
    if pruning is not None:
        settings = settings.model_copy(update={"method": settings.method.model_copy(update={"pruning": pruning.past})})
    bits = pruning is not None and _method(settings).quantizes
    found = science(settings, PREPARED | ({"quantization": True} if bits else {}))
    found["task"] = _without(found["task"], TEACHING)
    found["method"] = {k: v for k, v in found["method"].items() if k in prepares(settings)}
    if bits:
        found["quantization"] = _without(_without_accumulators(found["quantization"]), AFTER_FOLDING)
    return hash_of(found, fingerprint)


def fine_tuned_hash(settings: RunSettings, fingerprint: str, fine_tunes: bool, sees_accumulator: bool) -> str:
    """Name of a fine-tuning: everything before the last settling, without accumulators where nothing sees them.

    With fixed16 all training does: it is their bits by which layers take it.
    """
    found = science(settings, FINE_TUNED if fine_tunes else FINE_TUNED | {"schedule": {"float", "prepare"}})
    settles = (found["method"].get("settle") or {}).get("before_training", False)
    searches = (found["method"].get("search") or {}).get("certified", False)
    for name in AFTER - ({"settle"} if settles else set()):
        found["method"].pop(name, None)
    if not fine_tunes:
        found["task"] = _without(found["task"], TEACHING)
    sees = sees_accumulator or settles or searches or settings.quantization.requantization == "fixed16"
    if not sees:
        found["quantization"] = _without_accumulators(found["quantization"])
    return hash_of(found, fingerprint)


def _without_accumulators(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """Of the section `quantization` what does not concern accumulators."""
    rest = _without(quantization, ACCUMULATORS)
    overrides = [_without(override, ACCUMULATORS) for override in rest.pop("overrides", ())]
    return rest | {"overrides": [override for override in overrides if set(override) != {"match"}]}


def _without(fields: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _finished(value: Any, where: str) -> Any:
    """A dump without what is omitted, and with the content of files."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not OMITTED}
        return {key: _finished(item, f"{where}.{key}".lstrip(".")) for key, item in kept.items()}
    if isinstance(value, File):
        try:
            return {"sha256": file_hash(value.path)}
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return [_finished(item, where) for item in value] if isinstance(value, list | tuple) else value
