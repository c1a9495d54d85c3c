"""From Hydra's configuration to plain, checked settings."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from oaq_repro.errors import InputError


def config_folder() -> Path:
    """`conf/` of the checkout that this source stands in, else the copy inside the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def groups_without_files(arguments: Iterable[str]) -> list[str]:
    """One message per group of `conf/` that the command line gives no name of a file, but null or a number.

    Hydra would show a traceback. What it cannot parse it says itself.
    """
    messages = []
    for argument in arguments:
        try:
            (override,) = OverridesParser.create().parse_overrides([argument])
        except HydraException:
            continue
        group, value = override.key_or_group, override.value()
        if (config_folder() / group).is_dir() and not isinstance(value, str | list | QuotedString | Sweep):
            files = ", ".join(sorted(path.stem for path in (config_folder() / group).glob("*.yaml")))
            found = "null" if value is None else value
            if not override.is_delete():
                messages.append(f"{group}: found {found}, expected one of {files}")
    return messages


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved; InputError where one cannot be.

    `choices` are the names of the chosen files, for tables. Nothing is checked here: see `schema.check`.
    """
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, dict)
    settings.pop("hydra", None)
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        named = Counter(override.partition("=")[0].lstrip("+~") for override in hydra.overrides.task)
        if twice := [name for name, count in named.items() if count > 1]:
            raise InputError(f"{twice[0]}: found twice on the command line, expected once")
        settings["choices"] = {k: v for k, v in hydra.runtime.choices.items() if "/" not in k}
    return {str(key): value for key, value in settings.items()}
