from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.settings.schema import build_part
from oaq_repro.tasks.schedule import Schedule

DECAYS = get_args(get_type_hints(Schedule)["decay"])


def rates(schedule, total):
    """Learning rate of every step."""
    optimizer, scheduler = schedule.configure(nn.Linear(2, 2).parameters(), total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_with_warmup():
    found = rates(Schedule(lr=1.0, steps=14, warmup_steps=4), 14)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[9] == pytest.approx(0.5)
    assert 0 < found[-1] < 0.03


def test_poly_linear_constant_and_multistep():
    def of(decay):
        return rates(Schedule(lr=1.0, steps=10, decay=decay, milestones=(0.5, 0.8), gamma=0.5), 10)

    assert of("poly")[5] == pytest.approx(0.5**0.9)
    assert of("linear")[5] == pytest.approx(0.5)
    assert of("constant") == [1.0] * 10
    assert of("multistep") == pytest.approx([1.0] * 5 + [0.5] * 3 + [0.25] * 2)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(DECAYS), st.integers(1, 60), st.integers(0, 80), st.floats(1e-5, 1.0), st.sampled_from([0.1, 1.0])
)
def test_rates_rise_to_lr_and_then_never_rise(decay, total, warmup, lr, gamma):
    found = rates(Schedule(lr=lr, steps=total, decay=decay, warmup_steps=warmup, gamma=gamma), total)
    top = min(warmup, total - 1)
    assert found[top] == pytest.approx(lr)
    assert all(0 < a <= b * (1 + 1e-9) for a, b in zip(found[:top], found[1:], strict=False))
    assert all(0 <= b <= a * (1 + 1e-9) for a, b in zip(found[top:], found[top + 1 :], strict=False))


def test_only_matrices_and_kernels_decay():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    module.alpha = nn.Parameter(torch.tensor(1.0))
    module[0].bias.requires_grad = False
    optimizer, _ = Schedule(lr=0.1, steps=2, weight_decay=0.5).configure(module.parameters(), 2)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays.pop(id(module[0].weight)) == 0.5
    assert set(decays) == {id(module[1].weight), id(module[1].bias), id(module.alpha)}
    assert set(decays.values()) == {0.0}


def test_lengths_in_epochs_and_in_steps():
    assert Schedule(lr=1, epochs=3).total_steps(7) == 21
    fields = Schedule(lr=1, steps=20, validations=3, grad_clip=2.0).trainer_fields(7)
    assert fields["max_steps"] == 20 and fields["max_epochs"] == -1
    assert fields["val_check_interval"] == 7 and fields["check_val_every_n_epoch"] is None
    assert fields["gradient_clip_val"] == 2.0
    assert Schedule(lr=1, steps=2, validations=5).trainer_fields(7)["val_check_interval"] == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "schedule.epochs, steps: found None and None"),
        ({"epochs": 1, "steps": 1}, "schedule.epochs, steps: found 1 and 1"),
        ({"epochs": 0}, r"schedule\.epochs: found 0"),
        ({"epochs": 1, "lr": 0}, r"schedule\.lr: found 0"),
        ({"epochs": 1, "optimizer": "lamb"}, r"schedule\.optimizer: found 'lamb', expected 'sgd', 'adam' or 'adamw'"),
        ({"epochs": 1, "decay": "step"}, r"schedule\.decay"),
        ({"epochs": 1, "momentum": 1.0}, r"schedule\.momentum"),
        ({"epochs": 1, "milestones": [30, 60]}, r"schedule\.milestones"),
        ({"epochs": 1, "grad_clip": 0}, r"schedule\.grad_clip"),
        ({"epochs": 1, "validations": 0}, r"schedule\.validations"),
    ],
)
def test_bad_fields_are_named(fields, expected):
    with pytest.raises(InputError, match=expected):
        build_part(Schedule, {"lr": 0.1} | fields, "schedule")
