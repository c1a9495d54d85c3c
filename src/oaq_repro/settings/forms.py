"""The forms of a run's settings: pydantic's models, made from what the code declares.

A section with a kind has the arguments of its class or function as fields: their annotations (`oaq_repro.fields`) and
defaults, and what a dataclass's `__post_init__` says about several of them.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, create_model, model_validator

from oaq_repro.settings.kinds import GIVEN, KINDS
from oaq_repro.settings.sections import RunSettings, Section

Fields = dict[str, tuple[Any, Any]]
"""Annotation and default (... where there is none) by name, as `pydantic.create_model` takes them."""


def form_of_run(settings: Mapping[str, Any]) -> type[RunSettings]:
    """The fields of a run whose sections have these settings' kinds, which are known."""
    return form_of_kinds(tuple(settings[section]["kind"] for section in KINDS))


@cache
def form_of_kinds(kinds: tuple[str, ...]) -> type[RunSettings]:
    """The fields of a run whose sections with kinds have these, in the order of KINDS."""
    forms: dict[str, Any] = {name: (form_of(name, kind), ...) for name, kind in zip(KINDS, kinds, strict=True)}
    return create_model("Run", __base__=RunSettings, **forms)


@cache
def form_of(section: str, kind: str) -> type[BaseModel]:
    """The fields of a kind as a model of pydantic."""
    entry = KINDS[section][kind]
    target = locate(entry.target)
    known = (fields_of(locate(entry.common)) if entry.common else {}) | fields_of(target)
    kept: dict[str, Any] = {"kind": (Literal[kind], ...)}
    kept |= {name: field for name, field in known.items() if name not in GIVEN.get(section, ())}

    def together(made: BaseModel) -> BaseModel:
        target(**{name: getattr(made, name) for name in known})  # `__post_init__` has its say about several fields
        return made

    checks: dict[str, Any] = {"together": model_validator(mode="after")(together)} if is_dataclass(target) else {}
    return create_model(kind, __base__=Section, __validators__=checks, **kept)


def locate(target: str) -> Any:
    """The class or function that `module:name` means."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def fields_of(target: Any) -> Fields:
    """Fields of a dataclass; arguments of a function, or of a class and of the bases that it passes `**common` to."""
    if is_dataclass(target):
        hints = get_type_hints(target, include_extras=True)
        return {f.name: (hints[f.name], _default(f)) for f in fields(target) if f.init}
    bases = inspect.getmro(target) if inspect.isclass(target) else ()
    found: Fields = {}
    for function in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [target]:
        hints = get_type_hints(function, include_extras=True)
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        own = {p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in parameters}
        passed_on = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        found = {name: field for name, field in own.items() if name not in passed_on} | found
        if not passed_on:
            break
    return found


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return ... if field.default is MISSING else field.default


def fields_beside(form: Any, where: Sequence[str]) -> Fields:
    """The fields that may stand where `where` ends."""
    for part in where[:-1]:
        known = _fields(form)
        form = _form_in(known[part][0]) if part in known else form  # a key of a mapping is no field
    return _fields(form)


def _fields(form: Any) -> Fields:
    if is_dataclass(form):
        return fields_of(form)
    return {name: (field.annotation, field.get_default()) for name, field in form.model_fields.items()}


def _form_in(annotation: Any) -> Any:
    """The dataclass or model in an annotation (`X | None`, `Mapping[str, X]`), None where there is none."""
    if is_dataclass(annotation) or (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
        return annotation
    return next((found for found in map(_form_in, get_args(annotation)) if found is not None), None)


def at(settings: Any, where: Sequence[str]) -> Any:
    """What stands there in nested mappings; ... where nothing does."""
    for part in where:
        settings = settings.get(part, ...) if isinstance(settings, Mapping) else ...
    return settings
