import os

import pytest
from composing import composed

from oaq_repro.results import finished
from oaq_repro.results.finished import finished_record, remember
from oaq_repro.results.provenance import provenance
from oaq_repro.results.record import RECORD_NAME, Record, save_record
from oaq_repro.results.store import run_folder
from oaq_repro.settings.composing import resolve
from oaq_repro.settings.identity import run_hash, science
from oaq_repro.settings.schema import read

FINGERPRINT = "f" * 64


@pytest.fixture
def data(tmp_path):
    """A folder in the layout of VOC."""
    annotations = tmp_path / "voc" / "VOC2007" / "Annotations"
    annotations.mkdir(parents=True)
    (annotations / "1.xml").write_text("<annotation/>")
    return tmp_path / "voc"


def settings_of(tmp_path, data, *overrides):
    config = composed(
        "task=detection", "data=voc_detection", f"data.root={data}", f"results={tmp_path / 'results'}", *overrides
    )
    return resolve(config)


def leave_record(settings, status="finished"):
    name = run_hash(read(settings), FINGERPRINT)
    origin = provenance(dataset="Voc", dataset_fingerprint=FINGERPRINT, started="now", wall_time_s=1.0)
    record = Record(
        hash=name, seed=settings["seed"], status=status, config=settings, metrics={"float": {"map50": 0.5}},
        provenance=origin, science=science(read(settings)),
    )  # fmt: skip
    save_record(record, run_folder(settings["results"], name, settings["seed"]) / RECORD_NAME)
    return record


def test_a_finished_run_is_known_by_what_was_remembered(tmp_path, data):
    settings = settings_of(tmp_path, data)
    record = leave_record(settings)
    assert finished_record(settings) is None  # nobody has read the data yet
    remember(settings, run_hash(read(settings), FINGERPRINT))
    assert finished_record(settings) == record
    assert finished_record(settings_of(tmp_path, data, "data.num_workers=0", "threads=3")) == record
    assert finished_record(settings_of(tmp_path, data, "seed=1")) is None
    assert finished_record(settings_of(tmp_path, data, "method=int8")) is None


@pytest.mark.parametrize("section, field", [("data", "root"), ("model", "checkpoint"), ("data", None), ("model", None)])
def test_settings_that_are_not_checked_yet_are_no_traceback(tmp_path, data, section, field):
    settings = settings_of(tmp_path, data)
    settings[section] = 5 if field is None else settings[section] | {field: {"x": 1}}
    assert finished_record(settings) is None


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_is_not_finished(tmp_path, data, status):
    settings = settings_of(tmp_path, data)
    leave_record(settings, status)
    remember(settings, run_hash(read(settings), FINGERPRINT))
    assert finished_record(settings) is None


def edit(data):
    (data / "VOC2007" / "Annotations" / "1.xml").write_text("<annotation>other</annotation>")


def add(data):
    (data / "VOC2007" / "Annotations" / "2.jpg").write_text("")


def touch_root(data):
    os.utime(data, ns=(1, 1))


@pytest.mark.parametrize("change", [edit, add, touch_root])
def test_data_that_changed_are_read_again(tmp_path, data, change):
    settings = settings_of(tmp_path, data)
    leave_record(settings)
    remember(settings, run_hash(read(settings), FINGERPRINT))
    change(data)
    assert finished_record(settings) is None


def test_data_that_are_read_otherwise_are_read_again(tmp_path, data, monkeypatch):
    settings = settings_of(tmp_path, data)
    leave_record(settings)
    remember(settings, run_hash(read(settings), FINGERPRINT))
    monkeypatch.setattr(finished, "CODE", tmp_path)
    assert finished_record(settings) is None


def test_a_fingerprint_cut_short_is_read_again(tmp_path, data):
    settings = settings_of(tmp_path, data)
    remember(settings, run_hash(read(settings), FINGERPRINT))
    leave_record(settings)
    (path,) = (tmp_path / "results" / "known").glob("*.txt")
    path.write_text("ff")
    assert finished_record(settings) is None
    remember(settings, run_hash(read(settings), FINGERPRINT))
    assert finished_record(settings) is not None
