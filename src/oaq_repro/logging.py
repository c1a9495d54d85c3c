"""Loggers of a run: CSV always, Weights & Biases on request; a logger never ends a run."""

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import CSVLogger, Logger

logger = logging.getLogger(__name__)


class NeverFails(Logger):
    """Passes everything to another logger; the first exception is reported once and ends the logging, not the run."""

    def __init__(self, inner: Logger) -> None:
        super().__init__()
        self._inner: Logger | None = inner

    def _try(self, call: Callable[[Logger], Any]) -> Any:
        if self._inner is None:
            return None
        try:
            return call(self._inner)
        except Exception as error:  # whatever a logger may raise: network, disk, its own bugs
            warnings.warn(f"{type(self._inner).__name__} failed and is switched off: {error}", stacklevel=2)
            self._inner = None
            return None

    @property
    def name(self) -> str | None:
        """Name of the experiment, None when the logger is off."""
        return self._try(lambda inner: inner.name)

    @property
    def version(self) -> int | str | None:
        """Version of the run, None when the logger is off."""
        return self._try(lambda inner: inner.version)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log numbers."""
        self._try(lambda inner: inner.log_metrics(metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log the configuration."""
        self._try(lambda inner: inner.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """Flush."""
        self._try(lambda inner: inner.save())

    def finalize(self, status: str) -> None:
        """Close."""
        self._try(lambda inner: inner.finalize(status))


def make_loggers(config: Mapping[str, Any], folder: Path, stage: str, run_config: dict[str, Any]) -> list[Logger]:
    """Loggers for one stage (`float` or `finetune`) of a run; `run_config` is what W&B shows as configuration."""
    loggers: list[Logger] = [NeverFails(CSVLogger(str(folder), name="", version=_free_name(folder, stage)))]
    wandb = config.get("wandb")
    if wandb is not None:
        try:
            loggers.append(NeverFails(_wandb(wandb, folder, stage, run_config)))
        except Exception as error:
            warnings.warn(f"Weights & Biases is not available ({error}); going on without it", stacklevel=2)
    return loggers


def _free_name(folder: Path, stage: str) -> str:
    """`stage`, or `stage-2`, ... where earlier attempts have logged: CSVLogger would delete their files."""
    attempts = 1 + len(list(folder.glob(f"{stage}*/metrics.csv")))
    return stage if attempts == 1 else f"{stage}-{attempts}"


def _wandb(config: Mapping[str, Any], folder: Path, stage: str, run_config: dict[str, Any]) -> Logger:
    from pytorch_lightning.loggers import WandbLogger

    offline = config.get("offline")
    if offline is None:
        offline = not _has_login()
    made = WandbLogger(
        project=config["project"],
        entity=config.get("entity"),
        save_dir=str(folder),
        offline=bool(offline),
        name=f"{folder.parent.name}-{folder.name}-{stage}",
        group=folder.parent.name,
        job_type=stage,
        config=run_config,
    )
    _ = made.experiment  # starts it now, where a failure is caught
    return made


def _has_login() -> bool:
    """Whether `wandb login` has left a key. Asking wandb itself would fix its mode for the whole process."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
