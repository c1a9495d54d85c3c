"""Where the configs are, and how a part of a config becomes an object or one clear message."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oaq_repro.errors import InputError


def config_folder() -> Path:
    """`conf/` of the checkout that this source stands in, else the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved; InputError where one cannot be."""
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, dict)
    settings.pop("hydra", None)
    if HydraConfig.initialized():  # names of the config files, for the tables
        settings["choices"] = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "/" not in k}
    return {str(key): value for key, value in settings.items()}


def build(config: Mapping[str, Any], field: str, **arguments: Any) -> Any:
    """Make the object that `config` describes by `_target_` (hydra.utils.instantiate).

    `field` names this part of the config for messages; `arguments` are what the config cannot know.
    Raises InputError for unknown or missing fields, and passes on the InputErrors of the object itself.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import get_object, instantiate

    target = config.get("_target_") if config is not None else None
    if not target:
        raise InputError(f"{field}: found no _target_, expected the dotted name of a class or function")
    try:
        accepted = inspect.signature(get_object(target)).parameters
    except (ImportError, ValueError, TypeError, InstantiationException) as error:
        raise InputError(f"{field}._target_: found {target!r}, which cannot be imported ({error})") from error
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    given = [str(key) for key in config if not str(key).startswith("_")]
    unknown = [key for key in given if key not in accepted]
    if unknown and not open_ended:
        raise InputError(f"{field}.{unknown[0]}: no such field; expected one of {', '.join(accepted)}")
    try:
        return instantiate(config, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = _root_cause(error)
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, TypeError):
            raise InputError(f"{field}: {cause}") from error
        raise


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error
