"""Loggers of a run: CSV always, Weights & Biases on request; a logger never ends a run."""

import logging
import os
import warnings
from collections.abc import Callable
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pytorch_lightning.loggers import CSVLogger, Logger

from oaq_repro.results.record import Record
from oaq_repro.settings.sections import RunSettings

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

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


def make_loggers(settings: RunSettings, folder: Path, stage: str) -> list[Logger]:
    """Loggers for one stage (`float`, `prepare` or `finetune`) of a run."""
    loggers: list[Logger] = [NeverFails(CSVLogger(str(folder), name="", version=_free_name(folder, stage)))]
    if settings.logger.wandb is not None:
        try:
            loggers.append(NeverFails(_wandb(settings, folder, stage)))
        except Exception as error:
            warnings.warn(f"Weights & Biases is not available ({error}); going on without it", stacklevel=2)
    return loggers


def log_record(settings: RunSettings, record: Record, folder: Path) -> None:
    """Show a record on Weights & Biases where they are asked for: numbers, histograms, the layers as an artifact."""
    if settings.logger.wandb is None:
        return
    try:
        import wandb

        logger = _wandb(settings, folder, "record")
        numbers = {f"{stage}/{name}": v for stage, found in record.metrics.items() for name, v in found.items()}
        histograms = {}
        if record.layers:
            for field in ("alpha_activation", "alpha_weight", "alpha_weight_min", "alpha_weight_max", "overflow_seen"):
                values = [getattr(layer, field) for layer in record.layers]
                if None not in values:  # ends of a range are where channels have factors of their own
                    histograms[field] = wandb.Histogram(values)
            rows = [layer.model_dump() for layer in record.layers]
            table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
            artifact = wandb.Artifact(f"layers-{record.hash}-{record.seed}", "layers")
            artifact.add(table, "layers")
            logger.experiment.log_artifact(artifact)
        logger.experiment.log({**numbers, **histograms})
        logger.experiment.finish()
    except Exception as error:
        warnings.warn(f"Weights & Biases failed ({error}); the record is not affected", stacklevel=2)


def _free_name(folder: Path, stage: str) -> str:
    """`stage`, or `stage-2`, ... where earlier attempts have logged: CSVLogger would delete their files."""
    attempts = 1 + len(list(folder.glob(f"{stage}*/metrics.csv")))
    return stage if attempts == 1 else f"{stage}-{attempts}"


def _wandb(settings: RunSettings, folder: Path, stage: str) -> "WandbLogger":
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    if wandb.run is not None:  # an earlier stage's; a logger would go on with it
        wandb.finish()

    fields = settings.logger.wandb
    assert fields is not None
    offline = not _has_login() if fields.offline is None else fields.offline
    made = WandbLogger(
        project=fields.project,
        entity=fields.entity,
        save_dir=str(folder),
        offline=offline,
        name=f"{folder.parent.name}-{folder.name}-{stage}",
        group=fields.group or folder.parent.name,
        job_type=stage,
        config=settings.model_dump(mode="json"),
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
