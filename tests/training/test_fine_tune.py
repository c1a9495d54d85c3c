"""Which runs share a fine-tuning: those, and only those, whose training cannot differ."""

import json
from copy import deepcopy

import pytest
import torch
from composing import built, read_of
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.quant.network import layers
from oaq_repro.results.store import WEIGHTS, BusyError, lock_run
from oaq_repro.settings.composing import config_folder
from oaq_repro.settings.identity import fine_tuned_hash
from oaq_repro.training.checkpoints import LAST
from oaq_repro.training.shared import METRICS, train_or_load

OTHERS = ("float32", "videoiq", "videoiq_small")  # which have no fine-tuning of this kind
METHODS = sorted(path.stem for path in (config_folder() / "method").glob("*.yaml") if path.stem not in OTHERS)
BLIND = [
    "axe",
    "certified_scale",
    "codebook",
    "dsq",
    "group_scale",
    "hawq",
    "int8",
    "int8_settle",
    "int8_stochastic",
    "lsq",
    "pact",
    "pmf",
    "ptq_int8",
    "ptq_oaq",
    "qap",
    "reduce_range",
    "rq",
]


def training(*overrides):
    method = built("method", *overrides)
    return fine_tuned_hash(read_of(*overrides), "data", method.fine_tune, method.sees_accumulator)


@pytest.mark.parametrize("name", METHODS)
def test_widths_share_a_training_that_does_not_look_at_them(name):
    method = f"method={name}"
    narrow, wide = training(method, "accumulator.bits=12"), training(method, "accumulator.bits=20")
    assert (narrow == wide) == (name in BLIND)
    other = training(method, "accumulator.bits=12", "quantization.overrides.first.accumulator=int16")
    assert (narrow == other) == (name in BLIND)
    per_tensor = training(method, "accumulator.bits=12", "quantization.granularity=tensor")
    assert (narrow == per_tensor) == (name in BLIND)
    assert narrow != training(method, "accumulator.bits=12", "quantization.weight_bits=5")
    assert narrow != training(method, "accumulator.bits=12", "+quantization.overrides.x={match: fc, weight_bits: 6}")


def test_settling_comes_after_training():
    assert training("method=int8") == training("method=int8_settle")
    assert training("method=oaq") == training("method=oaq", "method.settle.margin=2")
    assert training("method=int8_settle") == training("method=int8_settle", "method.settle.split=even")
    assert training("method=oaq") != training("method=oaq", "method.split=even")
    assert training("method=int8") != training("method=ptq_int8")
    assert training("method=int8") != training("method=int8", "schedule.finetune.lr=0.1")
    assert training("method=oaq") != training("method=oaq", "method.lr=0.1")
    assert training("method=ptq_int8") == training("method=ptq_int8", "schedule.finetune.lr=0.1")


@pytest.mark.parametrize("name", ["oaq", "int8_settle"])
def test_each_width_settles_and_trains_by_itself_where_that_comes_first(name):
    first = (f"method={name}", "method.settle.before_training=true", "accumulator.bits=12")
    assert training(*first) != training(*first[:1], *first[2:])
    for other in ("accumulator.bits=20", "method.settle.margin=2", "quantization.granularity=tensor"):
        assert training(*first) != training(*first, other)


def test_each_width_trains_by_itself_where_bits_are_chosen_for_it():
    first = ("method=hawq", "method.search.certified=true", "accumulator.bits=12")
    assert training(*first) != training(*first[:2], "accumulator.bits=20")
    assert training(*first) != training(first[0], first[2])


def test_settling_before_a_training_needs_one():
    with pytest.raises(InputError, match="settle.before_training, fine_tune: found true and false"):
        built("method", "method=ptq_oaq", "method.settle.before_training=true")


@pytest.mark.parametrize("name", BLIND)
def test_what_is_said_to_be_blind_is_blind(name):
    """The same losses and gradients whatever the accumulator."""
    method = built("method", f"method={name}")
    network, seen = trained(Classifier()), []
    for bits in (8, 32):
        model = quantized(deepcopy(network), method, accumulator="int32")
        for layer in layers(model).values():
            layer.accumulator = NAMED["int32"].with_bits(bits)
        method.start(model)
        model.train()
        assert method.callbacks() == []
        torch.manual_seed(0)
        (model(images(4, seed=2)).square().sum() + method.penalty(model)).backward()
        seen.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert seen[0] and all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def doubled(network):
    def train():
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(2)
        return {"top1": 0.5}

    return train


def never():
    raise AssertionError("this was trained before")


def test_a_training_is_made_once_and_keeps_the_accumulators_of_each_run(tmp_path):
    first = quantized(trained(Classifier()), built("method", "method=int8"), accumulator="int16")
    second = quantized(trained(Classifier()), built("method", "method=int8"), accumulator="int32")
    made = train_or_load(tmp_path, first, doubled(first))
    loaded = train_or_load(tmp_path, second, never)
    assert (made.hash, made.metrics) == (loaded.hash, loaded.metrics) and loaded.metrics == {"top1": 0.5}
    for one, other in zip(layers(first).values(), layers(second).values(), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert (one.accumulator, other.accumulator) == (NAMED["int16"], NAMED["int32"])


def test_a_training_that_fails_leaves_nothing_that_counts(tmp_path):
    network = torch.nn.Linear(2, 2)
    with pytest.raises(AssertionError):
        train_or_load(tmp_path, network, never)
    assert not (tmp_path / METRICS).exists()
    train_or_load(tmp_path, network, doubled(network))
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(InputError, match=WEIGHTS):
        train_or_load(tmp_path, network, never)


def flip(path):
    """The last bit: in weights, the sign of a number."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def change_a_digit(path):
    path.write_text(path.read_text().replace("0.5", "0.6"))


@pytest.mark.parametrize("name, damage", [(WEIGHTS, flip), (WEIGHTS, cut), (WEIGHTS, lambda path: path.unlink()),
                                          (METRICS, change_a_digit), (METRICS, cut)])  # fmt: skip
def test_damage_is_one_line_with_the_remedy(tmp_path, name, damage):
    network = torch.nn.Linear(2, 2)
    train_or_load(tmp_path, network, doubled(network))
    damage(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: .*remove its folder to train there again$"):
        train_or_load(tmp_path, network, never)


def test_a_folder_of_an_early_version_has_no_checksum(tmp_path):
    network = torch.nn.Linear(2, 2)
    made = train_or_load(tmp_path, network, doubled(network))
    (tmp_path / METRICS).write_text(json.dumps({"top1": 0.5}))
    assert train_or_load(tmp_path, torch.nn.Linear(2, 2), never) == made


def test_what_a_killed_process_left_does_not_stay(tmp_path):
    network = torch.nn.Linear(2, 2)
    train_or_load(tmp_path, network, doubled(network))
    left = [tmp_path / LAST, tmp_path / ".weights.abcd_123.safetensors"]
    for path in left:
        path.touch()
    train_or_load(tmp_path, network, never)
    assert not any(path.exists() for path in left)


def test_a_damaged_checkpoint_is_gone_before_training(tmp_path, capsys):
    network = torch.nn.Linear(2, 2)
    (tmp_path / LAST).write_bytes(b"half of a checkpoint")

    def train():
        assert not (tmp_path / LAST).exists()
        return {}

    train_or_load(tmp_path, network, train)
    assert "training starts anew" in capsys.readouterr().out


def test_a_folder_that_is_held_is_named(tmp_path):
    with lock_run(tmp_path), pytest.raises(BusyError) as caught, lock_run(tmp_path):
        pass
    assert caught.value.folder == tmp_path
