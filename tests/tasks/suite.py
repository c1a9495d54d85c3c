"""The tests that every task passes; a subclass says what its network and its data are."""

import math
from abc import ABC, abstractmethod

import pytest
import pytorch_lightning as pl
import torch

from oaq_repro.errors import InputError
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.tasks.schedule import Schedule


class Once:
    """A loader of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return 1

    def __iter__(self):
        yield self.batch


class TaskSuite(ABC):
    """What holds for every LightningModule of the suite (the idea is mila-iqia's ResearchTemplate's).

    `batch` is also the whole data set: the networks are small enough to learn it by heart in `STEPS` steps.
    """

    STEPS: int
    LR: float
    LEARNED: float  # the headline metric on the batch after STEPS steps, at least

    @abstractmethod
    def network(self):
        """A small network from random weights."""

    @abstractmethod
    def task(self, network, schedule, **fields):
        """The task on that network; fields: further arguments."""

    @abstractmethod
    def batch(self):
        """A few samples, as the data modules make them."""

    def schedule(self, **fields):
        return Schedule(**{"lr": self.LR, "steps": self.STEPS, "optimizer": "adamw", "warmup_steps": 3} | fields)

    def trainer(self, **fields):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return pl.Trainer(accelerator="cpu", enable_checkpointing=False, num_sanity_val_steps=0, **quiet, **fields)

    def fit(self, task, **fields):
        trainer = self.trainer(**task.schedule.trainer_fields(1), **fields)
        trainer.fit(task, train_dataloaders=Once(self.batch()), val_dataloaders=Once(self.batch()))
        return trainer

    @pytest.fixture(autouse=True)
    def seeded(self, one_thread):
        torch.manual_seed(0)

    def test_overfits_a_batch(self):
        task = self.task(self.network(), self.schedule())
        images, target = self.batch()
        task.train()
        before = task.loss(task(images), target).item()
        trainer = self.fit(task)
        assert trainer.global_step == self.STEPS
        logged = trainer.callback_metrics
        assert logged["loss"] < before / 2
        assert logged[task.METRIC] >= self.LEARNED
        assert logged["lr"] < self.LR

    def test_it_learns_from_a_teacher_without_labels(self):
        parent, network = self.network().dense, self.network()
        task = self.task(network, self.schedule(steps=30), parent=parent, teacher="float")
        names = set(task.state_dict())
        assert not any(name.startswith("teacher") for name in names)
        images, _ = self.batch()
        before, kept = self.to_teacher(task, images), parent.state_dict()
        kept = {name: value.clone() for name, value in kept.items()}
        trainer = self.trainer(**task.schedule.trainer_fields(1), limit_val_batches=0)
        trainer.fit(task.train(), train_dataloaders=Once((images, None)))
        assert self.to_teacher(task, images) < before / 2
        assert all(torch.equal(kept[name], value) for name, value in parent.state_dict().items())
        assert set(task.state_dict()) == names

    def to_teacher(self, task, images):
        with torch.no_grad():
            return task.distillation(task(images), images).item()

    def test_a_teacher_needs_a_parent(self):
        assert self.task(self.network(), None, teacher="float").teacher is None  # the parent's own training
        assert self.task(self.network(), None, parent=self.network().dense).teacher is None

    def test_metrics_of_an_untrained_network_are_fractions(self):
        task = self.task(self.network(), None)
        (metrics,) = self.trainer().validate(task, dataloaders=Once(self.batch()), verbose=False)
        assert task.METRIC in metrics
        assert all(0 <= value <= 1 for value in metrics.values())

    def test_each_validation_starts_anew(self):
        task = self.task(self.network(), None)
        first, second = (self.trainer().validate(task, dataloaders=Once(self.batch()), verbose=False) for _ in range(2))
        assert first == second

    def test_a_checkpoint_round_trips(self, tmp_path):
        task = self.task(self.network(), self.schedule(steps=2))
        self.fit(task).save_checkpoint(tmp_path / "task.ckpt")
        torch.load(tmp_path / "task.ckpt", weights_only=True)
        torch.manual_seed(1)
        fresh = self.network()
        load_checkpoint(fresh.dense, tmp_path / "task.ckpt")
        assert self.same_outputs(task.dense, fresh.dense)

    def test_training_goes_on_from_a_checkpoint(self, tmp_path):
        halted = self.task(self.network(), self.schedule(steps=4))
        fields = halted.schedule.trainer_fields(1)
        first = self.trainer(**fields | {"max_steps": 2})
        first.fit(halted, train_dataloaders=Once(self.batch()), val_dataloaders=Once(self.batch()))
        first.save_checkpoint(tmp_path / "half.ckpt")
        second = self.trainer(**fields)
        resumed = self.task(self.network(), self.schedule(steps=4))
        second.fit(resumed, train_dataloaders=Once(self.batch()), ckpt_path=tmp_path / "half.ckpt")
        assert second.global_step == 4
        assert second.optimizers[0].param_groups[0]["lr"] < 1e-6  # the schedule went on too, to its end

    def test_the_state_is_that_of_the_dense_part(self):
        network = self.network()
        names = {f"dense.{name}" for name in network.dense.state_dict()}
        task = self.task(network, self.schedule(steps=1))
        assert set(task.state_dict()) == names
        self.fit(task)
        assert set(task.state_dict()) == names

    def test_the_dense_part_can_be_swapped(self):
        network = self.network()
        task = self.task(network, None)
        (expected,) = self.trainer().validate(task, dataloaders=Once(self.batch()), verbose=False)
        task.dense = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Identity()))
        inner = network.dense.eval()
        task.dense.forward = lambda images: inner(images)
        assert self.trainer().validate(task, dataloaders=Once(self.batch()), verbose=False) == [expected]

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_says_where(self, value):
        task = self.task(self.network(), self.schedule(steps=3, warmup_steps=0))
        with torch.no_grad():
            for parameter in task.dense.parameters():
                parameter.fill_(value)
        with pytest.raises(InputError, match=rf"loss is (nan|inf) in epoch 0, step 0, at learning rate {self.LR:g}"):
            self.fit(task)

    def test_a_task_without_a_schedule_cannot_be_trained(self):
        task = self.task(self.network(), None)
        with pytest.raises(InputError, match="schedule: found null"):
            self.trainer(max_steps=1).fit(task, train_dataloaders=Once(self.batch()))

    def same_outputs(self, one, other):
        images, _ = self.batch()
        with torch.no_grad():
            ours, theirs = one.eval()(images), other.eval()(images)
        if isinstance(ours, tuple):
            return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        return torch.equal(ours, theirs)
