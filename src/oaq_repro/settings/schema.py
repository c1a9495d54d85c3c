"""The one schema of a run's settings, made from what the code declares: types and bounds beside every field.

A field that is declared (see `forms`) is checked; there is nothing else to write. Unknown fields are errors. Checking
reads no data and starts nothing.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, create_model

from oaq_repro.errors import InputError
from oaq_repro.settings.forms import form_of, form_of_run, locate
from oaq_repro.settings.kinds import KINDS, NETWORK_OF
from oaq_repro.settings.messages import about_fields, about_kind
from oaq_repro.settings.sections import RunSettings, Section

Form = TypeVar("Form", bound=BaseModel)


def check(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a whole run (`composing.resolve`) with all defaults, before anything is read or started.

    InputError with one line per bad field: unknown, of a wrong type, out of its bounds, or of another task.
    """
    checked: dict[str, Any] = read(settings).model_dump(mode="json")
    return checked


def read(settings: Mapping[str, Any]) -> RunSettings:
    """The settings of a whole run in one object; InputError as `check`."""
    if problems := [problem for section in KINDS if (problem := about_kind(section, settings.get(section)))]:
        raise InputError("\n".join(problems))
    task = settings["task"]["kind"]
    for section in ("data", "model", "method"):
        name = settings[section]["kind"]
        own = KINDS[section][name].task
        if own not in (task, NETWORK_OF.get(task) if section == "model" else None, None):
            raise InputError(f"{section}: found {name}, which is for {own}, with task={task}; expected task={own}")
    return _read(form_of_run(settings), settings)


def build(section: str, settings: Any, **given: Any) -> Any:
    """Make what a section with a kind describes; `given` are the arguments that no configuration knows.

    settings: of the section, read (`RunSettings`), or plain, which are read here. InputError, one line per bad field;
    what the object itself says about files and other parts passes through.
    """
    if not isinstance(settings, BaseModel):
        if problem := about_kind(section, settings):
            raise InputError(problem)
        settings = build_part(form_of(section, settings["kind"]), settings, section)
    return locate(KINDS[section][settings.kind].target)(**arguments_of(settings), **given)


def arguments_of(settings: BaseModel) -> dict[str, Any]:
    """The arguments that the settings of a section with a kind give."""
    return {name: getattr(settings, name) for name in settings.model_fields_set if name != "kind"}


def build_part(form: Any, settings: Any, where: str) -> Any:
    """Make a dataclass (or model) from the settings of its fields, which stand at `where`; InputError as `build`."""
    fields: dict[str, Any] = {where: (form, ...)}
    return getattr(_read(create_model("Part", __base__=Section, **fields), {where: settings}), where)


def _read(form: type[Form], settings: Mapping[str, Any]) -> Form:
    """As JSON, in which lists may be tuples, but no text is a number and no number a truth value."""
    try:
        return form.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise InputError("\n".join(about_fields(form, settings, error))) from None
    except (TypeError, RecursionError) as error:
        raise InputError(f"configuration: found values that JSON cannot hold ({error})") from None
