import warnings

import pytest
from pytorch_lightning.loggers import CSVLogger

from oaq_repro.logging import NeverFails, make_loggers


class Broken(CSVLogger):
    """Fails at the first metric."""

    def log_metrics(self, metrics, step=None):
        raise ConnectionError("no route")


def test_a_failing_logger_is_reported_once_and_then_silent(tmp_path):
    logger = NeverFails(Broken(str(tmp_path)))
    with pytest.warns(UserWarning, match="Broken failed and is switched off: no route"):
        logger.log_metrics({"loss": 1.0}, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logger.log_metrics({"loss": 1.0}, 1)
        logger.log_hyperparams({"lr": 1})
        logger.save()
        logger.finalize("success")
    assert logger.name is None


def test_csv_is_always_there_and_keeps_earlier_attempts(tmp_path):
    for attempt in ("float", "float-2"):
        (logger,) = make_loggers({"wandb": None}, tmp_path, "float", {})
        logger.log_metrics({"loss": 1.0}, 0)
        logger.finalize("success")
        assert (tmp_path / attempt / "metrics.csv").exists()


@pytest.mark.slow
def test_wandb_without_a_login_is_offline(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    config = {"wandb": {"project": "test", "entity": None, "offline": None}}
    _, wandb = make_loggers(config, tmp_path / "runs" / "0", "finetune", {"seed": 0})
    wandb.log_metrics({"loss": 1.0}, 0)
    wandb.finalize("success")
    import wandb as package

    package.finish()
    assert list(tmp_path.rglob("offline-run-*/*.wandb"))


def test_wandb_that_cannot_start_is_a_warning(tmp_path, monkeypatch):
    import pytorch_lightning.loggers as loggers

    def refuses(**fields):
        raise OSError("disk quota exceeded")

    monkeypatch.setattr(loggers, "WandbLogger", refuses)
    config = {"wandb": {"project": "test", "offline": True}}
    with pytest.warns(UserWarning, match="not available .disk quota exceeded.; going on without it"):
        (only,) = make_loggers(config, tmp_path, "float", {})
    assert isinstance(only, NeverFails)
