"""The object that walks through a run's stages, and the way around them."""

from dataclasses import FrozenInstanceError

import pytest
from composing import read_of, settings_of
from pydantic import ValidationError

from oaq_repro import experiment
from oaq_repro.errors import InputError
from oaq_repro.results.record import RECORD_NAME, load_record
from oaq_repro.run import Run
from oaq_repro.settings.identity import run_hash

SMALL = ["data.subset=32", "data.batch_size=16", "data.val_subset=8"]


@pytest.fixture
def prepared(tmp_path):
    return Run.prepared(read_of(*SMALL, f"results={tmp_path}", "seed=3"))


def test_a_run_cannot_change_on_its_way(prepared):
    with pytest.raises(FrozenInstanceError):
        prepared.settings = None
    for section, field in ((prepared.settings, "seed"), (prepared.settings.trainer, "devices")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 2)


def test_its_name_and_folder_follow_from_settings_and_data(prepared, tmp_path):
    assert prepared.hash == run_hash(prepared.settings, prepared.data.fingerprint())
    assert prepared.folder == tmp_path / "runs" / prepared.hash / "3"
    other = Run.prepared(read_of(*SMALL, f"results={tmp_path}", "data.subset=31"))
    assert other.hash != prepared.hash


def test_a_checkpoint_that_is_not_there_is_said_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="model.checkpoint: .*nothing.ckpt"):
        Run.prepared(read_of(*SMALL, f"results={tmp_path}", "model.checkpoint=nothing.ckpt"))


def test_a_finished_run_is_found_again_with_its_data(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "stages", lambda run, outcome: outcome.metrics.update(float={"top1": 0.5}))
    record = experiment.run(settings_of(*SMALL, f"results={tmp_path}", "seed=3"))
    folder = tmp_path / "runs" / record.hash / "3"
    found = Run.finished(folder)
    assert (found.hash, found.folder) == (record.hash, folder)
    monkeypatch.setattr(type(found.data), "fingerprint", lambda self: "another")
    with pytest.raises(InputError, match="found other data than the run's"):
        Run.finished(folder)
    with pytest.raises(InputError, match=r"record\.json"):
        Run.finished(tmp_path)


def test_a_worker_trains_along_and_leaves_the_record_to_the_first_process(tmp_path, monkeypatch):
    seen = []

    def stages(run, outcome):
        seen.append(run.hash)
        outcome.metrics["float"] = {"top1": 0.5}

    monkeypatch.setattr(experiment, "stages", stages)
    composed = settings_of(*SMALL, f"results={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setenv("LOCAL_RANK", "1")
        assert experiment.run(composed) is None
    assert len(seen) == 1 and not list(tmp_path.rglob(RECORD_NAME))
    record = experiment.run(composed)
    assert record.hash == seen[0] == seen[1]
    assert load_record(tmp_path / "runs" / record.hash / "0" / RECORD_NAME) == record


def test_a_warm_up_beyond_the_end_is_a_failed_run_that_trained_nothing(tmp_path):
    late = "schedule.finetune.warmup_steps=1000000"
    with pytest.raises(InputError, match="schedule.finetune.warmup_steps: found 1000000, expected fewer than the"):
        experiment.run(settings_of(*SMALL, f"results={tmp_path}", "schedule.float.warmup_steps=0", late))
    (path,) = tmp_path.rglob(RECORD_NAME)
    assert load_record(path).status == "failed" and not (tmp_path / "parents").exists()
