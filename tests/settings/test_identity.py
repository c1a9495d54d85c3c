"""What gives a run another name, and what does not."""

import copy
import importlib
import sys
from dataclasses import make_dataclass
from typing import Any

import pytest
from composing import settings_of
from hypothesis import given
from hypothesis import strategies as st

from oaq_repro.errors import InputError
from oaq_repro.methods.oaq import OAQ
from oaq_repro.quant.calibration.settle import SettleConfig
from oaq_repro.settings import forms, identity
from oaq_repro.settings.kinds import KINDS, Kind
from oaq_repro.settings.schema import check, read

FINGERPRINT = "f" * 64
BASE = settings_of()


def science(settings: dict[str, Any]) -> dict[str, Any]:
    return identity.science(read(settings))


def run_hash(settings: dict[str, Any], fingerprint: str) -> str:
    return identity.run_hash(read(settings), fingerprint)


def parent_hash(settings: dict[str, Any], fingerprint: str) -> str:
    return identity.parent_hash(read(settings), fingerprint)


def with_value(where: str, value: Any, settings: dict[str, Any] = BASE) -> dict[str, Any]:
    changed = copy.deepcopy(settings)
    *path, last = where.split(".")
    place = changed
    for part in path:
        place = place[part]
    place[last] = value
    return changed


def hash_with(where: str, value: Any) -> str:
    return run_hash(with_value(where, value), FINGERPRINT)


def test_hash_is_sixteen_hex_digits_and_known() -> None:
    earlier = BASE
    for path, value in identity.SILENCE.items():
        if path != "method.share":  # which this method has not
            earlier = with_value(path, value, earlier)
    digits = run_hash(earlier, FINGERPRINT)
    assert len(digits) == 16
    assert set(digits) <= set("0123456789abcdef")
    assert digits == "66f9ee1d1178ed5b"  # a release must not rename old runs


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("seed", 7),
        ("data.seed", 7),
        ("data.num_workers", 8),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 2),
        ("trainer.num_nodes", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.enable_progress_bar", False),
        ("logger", {"wandb": {"project": "mine"}}),
        ("results", "elsewhere"),
        ("threads", 4),
        ("latency", False),
        ("choices", {"method": "oaq"}),
        ("schedule.controller_interval", 3),  # `method.interval` has taken it over
        ("quantization.overrides.first.reason", "another"),
    ],
)
def test_hash_ignores_what_changes_no_number(where: str, value: Any) -> None:
    assert hash_with(where, value) == run_hash(BASE, FINGERPRINT)


def test_hash_ignores_where_data_are() -> None:
    here, there = (settings_of("data=imagenet", f"data.root={place}") for place in ("here", "there"))
    assert run_hash(here, FINGERPRINT) == run_hash(there, FINGERPRINT)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("data.batch_size", 16),
        ("data.subset", 100),
        ("model.pretrained", True),
        ("method.lr", 0.03),
        ("method.interval", 3),
        ("method.settle", None),
        ("method.settle.margin", 2),
        ("method", {"kind": "int8"}),
        ("quantization.accumulator.bits", 14),
        ("quantization.accumulator.block", 32),
        ("quantization.observer.kind", "percentile"),
        ("quantization.requantization", "dyadic"),
        ("quantization.overrides", {}),
        ("quantization.overrides.first.accumulator", "int14"),
        ("schedule.finetune.epochs", 3),
        ("schedule.float", None),
        ("task.label_smoothing", 0.1),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.accumulate_grad_batches", 2),
    ],
)
def test_hash_follows_the_science(where: str, value: Any) -> None:
    assert hash_with(where, value) != run_hash(BASE, FINGERPRINT)


def test_a_teacher_is_of_fine_tuning_alone() -> None:
    taught = with_value("task.teacher", "float")
    hot = with_value("task.temperature", 4.0, taught)
    hashes = [[run_hash(s, FINGERPRINT), tuned(s)] for s in (BASE, taught, hot)]
    assert len({name for names in hashes for name in names}) == 6
    assert parent_hash(BASE, FINGERPRINT) == parent_hash(hot, FINGERPRINT)
    post_training = [tuned(s, fine_tunes=False) for s in (BASE, hot)]
    assert post_training[0] == post_training[1]


def test_hash_follows_the_data() -> None:
    assert run_hash(BASE, FINGERPRINT) != run_hash(BASE, "e" * 64)


@given(st.permutations(list(BASE)))
def test_hash_ignores_order_and_number_type(order: list[str]) -> None:
    other = {name: BASE[name] for name in order}
    other["method"] = dict(reversed(other["method"].items())) | {"decrease_until": 1}
    assert run_hash(other, FINGERPRINT) == hash_with("method.decrease_until", 1.0)


def test_names_of_overrides_do_not_count_and_their_order_does() -> None:
    both = {"a": {"match": "@first", "weight_bits": 6}, "b": {"match": "*", "weight_bits": 4}}
    renamed = {"z": both["a"], "y": both["b"]}
    turned = {"b": both["b"], "a": both["a"]}
    first = hash_with("quantization.overrides", both)
    assert hash_with("quantization.overrides", renamed) == first
    assert hash_with("quantization.overrides", turned) != first


def test_a_name_stands_for_its_accumulator() -> None:
    plain = {"bits": 32, "overflow": "wrap", "lanes": 1, "block": None}
    assert hash_with("quantization.overrides.first.accumulator", plain) == run_hash(BASE, FINGERPRINT)


@pytest.mark.parametrize("key", ["checkpoint", "backbone_checkpoint"])
def test_checkpoint_counts_by_its_content(tmp_path, key: str) -> None:
    hashes = []
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
        hashes.append(hash_with(f"model.{key}", str(tmp_path / name)))
    assert hashes[0] == hashes[1] != hashes[2]
    with pytest.raises(InputError, match=rf"model\.{key}.*absent"):
        hash_with(f"model.{key}", str(tmp_path / "absent"))


def test_a_default_that_is_said_and_one_that_is_not_are_one() -> None:
    bare = copy.deepcopy(BASE)
    for name in ("fine_tune", "rule", "lr", "lr_max", "warmup_steps", "decrease_until"):
        del bare["method"][name]
    bare["method"]["settle"] = {}
    del bare["threads"], bare["quantization"]["observer"], bare["schedule"]["float"]["momentum"]
    assert run_hash(bare, FINGERPRINT) == run_hash(BASE, FINGERPRINT) == run_hash(check(BASE), FINGERPRINT)


@pytest.fixture
def fresh_forms():
    """Forms are made anew before and after a test that changes what they are made of."""

    def forget() -> None:
        forms.form_of.cache_clear()
        forms.form_of_kinds.cache_clear()

    forget()
    yield forget
    forget()


def test_a_new_field_with_a_default_renames_no_run(fresh_forms, monkeypatch) -> None:
    before = run_hash(BASE, FINGERPRINT), parent_hash(BASE, FINGERPRINT), tuned(BASE)
    settle = make_dataclass("SettleConfig", [("patience", int, 3)], bases=(SettleConfig,), frozen=True)
    grown = make_dataclass("OAQ", [("damping", float, 0.5), ("settle", settle | None, None)], bases=(OAQ,))
    monkeypatch.setattr(sys.modules[OAQ.__module__], "OAQ", grown)
    fresh_forms()
    said = check(BASE)["method"]
    assert said["damping"] == 0.5 and said["settle"]["patience"] == 3
    assert (run_hash(BASE, FINGERPRINT), parent_hash(BASE, FINGERPRINT), tuned(BASE)) == before
    assert hash_with("method.damping", 0.4) != before[0] != hash_with("method.settle.patience", 4)


def test_a_module_that_moves_renames_no_run(fresh_forms, monkeypatch) -> None:
    before = run_hash(BASE, FINGERPRINT), parent_hash(BASE, FINGERPRINT), tuned(BASE)
    for section, kinds in KINDS.items():
        for name, kind in kinds.items():
            module, _, target = kind.target.partition(":")
            if name in (BASE[section]["kind"], "oaq"):
                monkeypatch.setitem(sys.modules, f"elsewhere.{section}", importlib.import_module(module))
                moved = Kind(f"elsewhere.{section}:{target}", kind.task, kind.common)
                monkeypatch.setitem(kinds, name, moved)
    fresh_forms()
    assert KINDS["method"]["oaq"].target.startswith("elsewhere")
    assert (run_hash(BASE, FINGERPRINT), parent_hash(BASE, FINGERPRINT), tuned(BASE)) == before


def test_a_new_field_whose_default_is_new_behaviour_keeps_runs_of_before_apart(monkeypatch) -> None:
    """As if `percentile`, `max_passes` and `lr_max` had come later, and 99.0, 7 and 0.5 had been done before."""
    late = {"quantization.observer.percentile": 99.0, "method.settle.max_passes": 7, "method.lr_max": 0.5}
    earlier = BASE
    for path, value in late.items():
        earlier = with_value(path, value, earlier)
    default = run_hash(BASE, FINGERPRINT)
    monkeypatch.setattr(identity, "SILENCE", identity.SILENCE | late)
    assert run_hash(earlier, FINGERPRINT) == default  # which is the name that runs of before have
    assert run_hash(BASE, FINGERPRINT) != default
    found = science(BASE)
    assert found["quantization"]["observer"] == {"percentile": 99.99}
    assert found["method"]["settle"] == {"margin": 1.5, "max_passes": 20, "split": "output_error"}
    assert found["method"]["lr_max"] == 0.2
    for other in (settings_of("method=int8"), settings_of("method=int8_settle")):
        assert "lr_max" not in science(other)["method"]  # which int8 has not
    assert parent_hash(BASE, FINGERPRINT) == parent_hash(earlier, FINGERPRINT)


def tuned(settings: dict[str, Any], fine_tunes: bool = True, sees_accumulator: bool = True) -> str:
    return identity.fine_tuned_hash(read(settings), FINGERPRINT, fine_tunes, sees_accumulator)


def test_a_parent_is_that_of_all_methods() -> None:
    first = parent_hash(BASE, FINGERPRINT)
    for where, value in (
        ("method", {"kind": "int8"}),
        ("quantization.weight_bits", 4),
        ("schedule.finetune", None),
        ("accumulator.bits", 13),
    ):
        assert parent_hash(with_value(where, value), FINGERPRINT) == first
    for where, value in (("schedule.float.lr", 0.5), ("model.width", 2), ("data.subset", 9), ("schedule.float", None)):
        assert parent_hash(with_value(where, value), FINGERPRINT) != first


def test_the_three_hashes_differ() -> None:
    assert len({run_hash(BASE, FINGERPRINT), parent_hash(BASE, FINGERPRINT), tuned(BASE)}) == 3


def test_an_override_that_says_only_an_accumulator_counts_where_training_sees_it() -> None:
    without = with_value("quantization.overrides", {})
    assert tuned(BASE) != tuned(without)
    assert tuned(BASE, sees_accumulator=False) == tuned(without, sees_accumulator=False)
    assert tuned(BASE, fine_tunes=False) == tuned(with_value("schedule.finetune.lr", 0.5), fine_tunes=False)


def test_training_sees_the_accumulator_where_sums_are_requantized_in_16_bits() -> None:
    for requantization, same in (("float32", True), ("dyadic", True), ("fixed16", False)):
        settings = with_value("quantization.requantization", requantization)
        wide = with_value("quantization.accumulator.bits", 32, settings)
        assert (tuned(settings, sees_accumulator=False) == tuned(wide, sees_accumulator=False)) == same


def test_the_usual_requantization_renames_no_run() -> None:
    assert run_hash(settings_of("requantization=float32"), FINGERPRINT) == run_hash(BASE, FINGERPRINT)
    earlier = copy.deepcopy(BASE)
    del earlier["quantization"]["requantization"]
    assert run_hash(earlier, FINGERPRINT) == run_hash(BASE, FINGERPRINT)


PMF = settings_of("method=pmf")


def prepared(settings: dict[str, Any]) -> str:
    return identity.prepared_hash(read(settings), FINGERPRINT)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("quantization.activation_bits", 4),
        ("quantization.accumulator.bits", 12),
        ("method.settle", {"margin": 2}),
        ("method.bias_correction", True),
        ("schedule.finetune.epochs", 3),
        ("task.teacher", "float"),
        ("seed", 3),
    ],
)
def test_runs_that_differ_in_quantization_alone_share_what_is_trained_before_folding(where: str, value: Any) -> None:
    assert prepared(with_value(where, value, PMF)) == prepared(PMF)
    assert parent_hash(with_value(where, value, PMF), FINGERPRINT) == parent_hash(PMF, FINGERPRINT)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("method.weights.levels", 3),
        ("method.weights.beta_max", 7),
        ("schedule.prepare.epochs", 3),
        ("data.batch_size", 16),
        ("task.label_smoothing", 0.1),
    ],
)
def test_what_is_trained_before_folding_follows_its_settings(where: str, value: Any) -> None:
    changed = with_value(where, value, PMF)
    assert prepared(changed) != prepared(PMF)
    assert run_hash(changed, FINGERPRINT) != run_hash(PMF, FINGERPRINT)


def test_the_schedule_of_that_stage_counts_for_no_method_without_it() -> None:
    for value in (None, {"lr": 0.5, "epochs": 7}):
        assert hash_with("schedule.prepare", value) == run_hash(BASE, FINGERPRINT)
        assert tuned(with_value("schedule.prepare", value)) == tuned(BASE)
        for settings in (BASE, PMF):
            changed = with_value("schedule.prepare", value, settings)
            assert parent_hash(changed, FINGERPRINT) == parent_hash(settings, FINGERPRINT)
    assert len({prepared(PMF), parent_hash(PMF, FINGERPRINT), run_hash(PMF, FINGERPRINT)}) == 3
