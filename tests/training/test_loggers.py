import warnings

import pytest
from composing import read_of
from pytorch_lightning.loggers import CSVLogger

from oaq_repro.results.provenance import provenance
from oaq_repro.results.record import Record
from oaq_repro.results.sections import Layer
from oaq_repro.training.loggers import NeverFails, log_record, make_loggers


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
        (logger,) = make_loggers(read_of(), tmp_path, "float")
        logger.log_metrics({"loss": 1.0}, 0)
        logger.finalize("success")
        assert (tmp_path / attempt / "metrics.csv").exists()


@pytest.mark.slow
def test_wandb_without_a_login_is_offline(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    settings = read_of("logger=wandb", "logger.wandb.project=test", "logger.wandb.group=sweep")
    _, wandb = make_loggers(settings, tmp_path / "runs" / "0", "finetune")
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
    with pytest.warns(UserWarning, match="not available .disk quota exceeded.; going on without it"):
        (only,) = make_loggers(read_of("logger=wandb"), tmp_path, "float")
    assert isinstance(only, NeverFails)


@pytest.mark.slow
def test_wandb_shows_a_record_with_its_layers(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    seen = {}
    layer = Layer(
        name="conv", kind="conv", alpha_activation=2.0, alpha_weight=1.5, alpha_weight_min=1.0,
        alpha_weight_max=3.0, bits_activation=7.0, bits_weight=7.4,
        overflow_seen=3, outputs=10, worst_case=1.5, certified=False, longest_block=8, accumulator="int16",
        route="int16, seen", route_certified="int32",
    )  # fmt: skip
    origin = provenance(dataset="Digits", dataset_fingerprint="f", started="now", wall_time_s=1.0)
    record = Record(
        hash="0" * 16, seed=0, status="finished", config={}, metrics={"integer": {"top1": 0.5}}, layers=[layer],
        provenance=origin,
    )  # fmt: skip
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **fields: (seen.update(fields), init(**fields))[1])
    settings = read_of("logger=wandb", "logger.wandb.offline=true", "logger.wandb.group=sweep")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Weights & Biases failed")
        log_record(settings, record, tmp_path / "runs" / "0")
    assert (seen["group"], seen["job_type"]) == ("sweep", "record")
    assert list(tmp_path.rglob("offline-run-*/*.wandb")) and wandb.run is None


def test_without_wandb_a_record_is_not_shown(tmp_path):
    log_record(read_of(), None, tmp_path)
    assert not list(tmp_path.iterdir())
