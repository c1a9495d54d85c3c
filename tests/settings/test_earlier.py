"""Records of earlier versions in today's settings, and the script that rewrites them once."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from composing import read_of, settings_of

from oaq_repro.errors import InputError
from oaq_repro.files import file_hash
from oaq_repro.results.provenance import provenance
from oaq_repro.results.record import Record, load_record, save_record
from oaq_repro.results.store import list_records, load_in_place, say_early
from oaq_repro.settings import earlier, identity
from oaq_repro.settings.earlier import TARGETS, current
from oaq_repro.settings.identity import hash_of, parent_hash, run_hash, science
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.rekeying import rekey
from oaq_repro.settings.schema import check, read

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "results").glob("runs/*/*/record.json"))
FINGERPRINT = "f" * 64
OLD_SCHEDULE = {
    "_target_": "oaq_repro.tasks.schedule.Schedule", "epochs": 3, "steps": None, "optimizer": "adamw", "lr": 0.0002,
    "weight_decay": 0.05, "warmup_steps": 5, "decay": "cosine", "validations": 1,
}  # fmt: skip
OLD_ACCUMULATOR = {
    "_target_": "oaq_repro.quant.accumulator.Accumulator", "bits": 14, "overflow": "wrap", "lanes": 1, "block": None,
}  # fmt: skip
OLD_SETTLE = {
    "_target_": "oaq_repro.quant.calibration.calibrate.SettleConfig",
    "margin": 1.15,
    "max_passes": 20,
    "batches": None,
}
OLD = {
    "model": {
        "_target_": "oaq_repro.models.classification.build", "arch": "resnet18", "width": 0.125, "stem": "small",
        "pretrained": False, "checkpoint": None, "backbone_checkpoint": None,
    },
    "schedule": {
        "float": OLD_SCHEDULE | {"epochs": 12, "lr": 0.003, "warmup_steps": 30, "validations": 2},
        "finetune": OLD_SCHEDULE, "controller_interval": 2,
    },
    "method": {
        "_target_": "oaq_repro.methods.oaq.OAQ", "fine_tune": True, "rule": "paper", "interval": 2, "lr": 0.02,
        "lr_max": 0.2, "warmup_steps": 0, "decrease_until": 0.8, "settle": OLD_SETTLE,
    },
    "accumulator": OLD_ACCUMULATOR,
    "trainer": {"accelerator": "auto", "devices": 1, "strategy": "auto", "precision": "32-true"},
    "logger": {"wandb": None},
    "data": {
        "_target_": "oaq_repro.data.digits.Digits", "image_size": 8, "batch_size": 64, "num_workers": 0,
        "subset": None, "val_subset": None, "seed": 0, "mean": [0.31], "std": [0.38],
    },
    "task": {
        "name": "classification", "_target_": "oaq_repro.tasks.classification.ClassificationTask", "_partial_": True,
        "label_smoothing": 0.0,
    },
    "seed": 0, "results": "results", "threads": 1, "latency": False,
    "quantization": {
        "_target_": "oaq_repro.quant.config.QuantizationConfig", "_convert_": "all", "accumulator": OLD_ACCUMULATOR,
        "weight_bits": 8, "activation_bits": 8, "per_channel": True, "calibration_batches": 8,
        "observer": {"_target_": "oaq_repro.quant.quantizers.ObserverConfig", "kind": "minmax", "momentum": 0.05},
        "overrides": {"first": {"match": "@first", "accumulator": "int32", "reason": "the image's alpha stays 1"}},
    },
    "choices": {"method": "oaq", "data": "digits_sweep"},
}  # fmt: skip
"""Settings as version 1 wrote them."""


def old_record(config: dict[str, Any] = OLD, **fields: Any) -> Record:
    origin = provenance(dataset="Digits", dataset_fingerprint=FINGERPRINT, started="now", wall_time_s=1.0)
    made = {
        "hash": "0" * 16,
        "seed": 0,
        "status": "finished",
        "config": config,
        "metrics": {"float": {"top1": 0.5}},
        "provenance": origin,
    }
    return Record.model_validate(made | fields)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A results folder with one run of version 1, with a file beside the record, and its float parent."""
    parent = tmp_path / "parents" / ("1" * 16) / "0" / "weights.safetensors"
    parent.parent.mkdir(parents=True)
    parent.write_bytes(b"weights")
    record = old_record()
    record.provenance.parent_hash = file_hash(parent)
    folder = tmp_path / "runs" / ("0" * 16) / "0"
    save_record(record, folder / "record.json")
    (folder / "graph.npz").write_bytes(b"graph")
    (tmp_path / "fingerprints").mkdir()
    return tmp_path


@pytest.mark.parametrize("section", list(TARGETS))
def test_every_kind_of_version_1_is_known_by_a_name_that_still_exists(section: str) -> None:
    known = {f"{name}_{task}" for name in ("scenes",) for task in ("detection", "segmentation")}
    assert set(TARGETS[section].values()) - {"scenes"} <= set(KINDS[section])
    assert section != "data" or known <= set(KINDS["data"])


def test_settings_of_version_1() -> None:
    settings = current(OLD)
    assert "_target_" not in json.dumps(settings) and settings == check(settings) == current(settings)
    assert settings["method"] | {"settle": None} == {
        "kind": "oaq", "settle": None, "fine_tune": True, "rule": "paper", "interval": 2, "lr": 0.02, "lr_max": 0.2,
        "warmup_steps": 0, "decrease_until": 0.8, "split": "even", "bias_correction": False, "search": None,
    }  # fmt: skip
    assert settings["method"]["settle"]["split"] == "even" and settings["quantization"]["granularity"] == "tensor"
    assert settings["task"] == {
            "kind": "classification", "label_smoothing": 0.0, "teacher": None, "temperature": 1.0,
        }  # fmt: skip
    assert settings["quantization"]["overrides"]["first"]["accumulator"]["bits"] == 32
    assert settings["schedule"]["float"]["epochs"] == 12 and settings["choices"] == OLD["choices"]
    overrides = ("data=digits_sweep", "accumulator.bits=14", "~quantization.overrides.last", "trainer.devices=2",
                 "quantization.granularity=tensor", "method.split=even", "method.settle.margin=1.15")  # fmt: skip
    assert run_hash(read(settings), FINGERPRINT) == run_hash(read_of(*overrides), FINGERPRINT)


@pytest.mark.parametrize(
    "target, settle, granularity",
    [
        ("int8.Int8", None, "channel"), ("int8.Int8", OLD_SETTLE, "tensor"), ("oaq_clamp.OAQClamp", None, "channel"),
        ("certified_scale.CertifiedScale", None, "channel"), ("oaq.OAQ", None, "tensor"),
    ],
)  # fmt: skip
def test_granularity_of_records_from_before_the_choice(target: str, settle: Any, granularity: str) -> None:
    method = {"_target_": f"oaq_repro.methods.{target}", "fine_tune": True, "settle": settle}
    assert current(OLD | {"method": method})["quantization"]["granularity"] == granularity


def test_a_method_whose_factors_no_settings_say_now() -> None:
    method = {"_target_": "oaq_repro.methods.oaq_certified.OAQCertified", "interval": 2}
    with pytest.raises(InputError, match="oaq_certified: found factors .* make the run again"):
        current(OLD | {"method": method})


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_scenes_of_version_1(task: str) -> None:
    today = settings_of(f"task={task}")
    own = {
        "detection": ("photometric", "zoom_out", "iou_crop", "flip"),
        "segmentation": ("scale_range", "flip", "eval_size"),
    }
    data = {key: value for key, value in today["data"].items() if key not in (*own[task], "kind")}
    old = data | {
        "_target_": "oaq_repro.data.scene_cache.build_scenes", "task": task, "detection": {}, "segmentation": {},
        "batch_size": 3, task: {name: today["data"][name] for name in own[task]} | {"batch_size": 9},
    }  # fmt: skip
    assert current(today | {"data": old})["data"] == check(today)["data"] | {"batch_size": 9}


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("method", {"_target_": "mine.Method"}, r"method\._target_: found mine\.Method, expected a kind of method"),
        ("trainer", {"limit_train_batches": 0}, r"trainer\.limit_train_batches: no such field"),
        ("method", {"lr": -1}, r"method\.lr: found -1"),
    ],
)
def test_what_no_run_of_today_could_say_is_named(section: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        current(OLD | {section: OLD[section] | change})  # type: ignore[operator]


def test_silence_is_made_explicit_where_a_kind_has_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    late = {"quantization.observer.percentile": 99.0, "method.settle.margin": 2.0, "method.softness": 0.1}
    for module in (earlier, identity):
        monkeypatch.setattr(module, "SILENCE", late)
    silent = OLD | {"method": OLD["method"] | {"settle": {"max_passes": 9}}}  # type: ignore[operator]
    settings = current(silent)
    assert settings["quantization"]["observer"]["percentile"] == 99.0
    assert settings["method"]["settle"]["margin"] == 2.0 and "softness" not in settings["method"]
    assert settings == current(settings)
    monkeypatch.undo()
    assert current(silent)["method"]["settle"]["margin"] == 1.15


def test_records_are_rewritten_once(results: Path) -> None:
    before = load_record(results / "runs" / ("0" * 16) / "0" / "record.json")
    with pytest.raises(InputError, match=r"is of an early version; .*scripts/rekey\.py --results"):
        load_in_place(results / "runs" / ("0" * 16) / "0" / "record.json")
    (problem,) = list_records(results).problems
    assert f"rekey.py --results {results}" in problem

    done = rekey(results)
    (folder,) = results.glob("runs/*/*")
    assert (done.moved, done.current, done.left) == ([f"{results / 'runs' / ('0' * 16) / '0'} -> {folder}"], 0, [])
    record = load_in_place(folder / "record.json")
    settings = current(OLD)
    assert record.hash == run_hash(read(settings), FINGERPRINT) == hash_of(record.science, FINGERPRINT)
    assert record.config == settings and record.science == science(read(settings))
    same = {"config": None, "science": None, "hash": "0" * 16}
    assert record.model_copy(update=same) == before.model_copy(update=same)
    assert (folder / "graph.npz").read_bytes() == b"graph"
    (parent,) = results.glob("parents/*/*")
    assert parent.parent.name == parent_hash(read(settings), FINGERPRINT)
    assert (parent / "weights.safetensors").read_bytes() == b"weights"

    again = rekey(results)
    assert (again.moved, again.current, again.left) == ([], 1, [])


def test_runs_that_are_not_found_are_spoken_of(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say_early(results)
    assert (
        "has runs of an early version, which are not found; bring them up to date: python scripts/rekey.py"
        in capsys.readouterr().out
    )
    rekey(results)
    say_early(results)
    assert not capsys.readouterr().out


def test_an_interrupted_rewriting_goes_on(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(old: Path, new: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        rekey(results)
    monkeypatch.undo()
    assert len(rekey(results).moved) == 1
    (folder,) = results.glob("runs/*/*")
    assert load_in_place(folder / "record.json").config == current(OLD)


def test_two_runs_that_are_one_and_a_run_of_unknown_kind_are_left(results: Path) -> None:
    twin = OLD | {"schedule": OLD["schedule"] | {"controller_interval": 3}}  # type: ignore[operator]
    strange = OLD | {"method": {"_target_": "mine.Method"}}
    for name, config in (("8" * 16, twin), ("9" * 16, strange)):
        save_record(old_record(config, hash=name), results / "runs" / name / "0" / "record.json")
    done = rekey(results)
    assert len(done.moved) == 1 and len(done.left) == 2
    assert "is there already, of the same settings" in done.left[0] and "method._target_" in done.left[1]
    assert load_record(results / "runs" / ("8" * 16) / "0" / "record.json").config == twin


def test_script(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / "scripts" / "rekey.py"))["main"]
    assert main(["--results", str(results)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs rewritten, 0 were up to date, 0 left as they are"
    assert main(["--results", str(results)]) == 0
    assert capsys.readouterr().out == "0 runs rewritten, 1 were up to date, 0 left as they are\n"


def test_every_committed_record_has_its_own_hash(monkeypatch) -> None:
    assert len(COMMITTED) >= 405
    for path in COMMITTED:
        record = load_in_place(path)
        pretrained = record.science["model"].get("checkpoint", {})  # of whose file the record has the hash alone
        monkeypatch.setattr(identity, "file_hash", lambda path, known=pretrained: known["sha256"])
        settings = read(current(record.config))
        assert science(settings) == record.science, path
        assert run_hash(settings, record.provenance.dataset_fingerprint) == record.hash, path
