import pytest
import torch
from sklearn.metrics import roc_auc_score
from tasks.suite import Once, TaskSuite

from oaq_repro.models.classification import build
from oaq_repro.tasks.classification import ClassificationTask


class TestClassification(TaskSuite):
    STEPS, LR, LEARNED = 80, 1e-2, 1.0

    def network(self):
        return build(4, (1, 16, 16), "mobilenetv1", 0.25, "small")

    def task(self, network, schedule, **fields):
        return ClassificationTask(network, schedule, tuple("abcd"), **fields)

    def batch(self):
        images = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        return images, torch.arange(8) % 4

    def test_top1_is_the_fraction_that_is_right(self):
        task = self.task(self.network(), None)
        labels = torch.tensor([0, 1, 2, 3, 3])
        for part in (slice(0, 3), slice(3, 5)):  # batches of different sizes count by their images
            task.update(torch.eye(4)[torch.tensor([0, 1, 2, 3, 0])[part]], labels[part])
        assert task.compute()["top1"].item() == torch.tensor(0.8).item()

    def test_agreement_is_the_fraction_whose_first_place_is_the_parents(self):
        parent, task = self.network().dense.eval(), self.task(self.network(), None)
        images, _ = self.batch()
        with torch.no_grad():
            theirs, ours = parent(images).argmax(1), task.eval()(images).argmax(1)
        batch = Once((images, theirs))
        (alone,) = self.trainer().validate(task, dataloaders=batch, verbose=False)
        assert "agreement" not in alone
        compared = self.task(self.network(), None, parent=parent)
        compared.dense.load_state_dict(task.dense.state_dict())
        for _ in range(2):
            (metrics,) = self.trainer().validate(compared, dataloaders=batch, verbose=False)
            assert metrics["agreement"] == metrics["top1"] == (theirs == ours).float().mean().item()

    def test_a_tie_goes_to_the_lowest_class(self):
        task = self.task(self.network(), None)
        tied = torch.tensor([[0.0, 3, 3, 1], [2, 2, 2, 2], [1, 0, 5, 5]])
        task.update(tied, torch.tensor([1, 0, 3]))
        assert task.compute()["top1"].item() == torch.tensor(2 / 3).item()

    def test_auc_is_scikit_learns_with_ties_and_over_batches(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randint(-2, 3, (60, 4), generator=generator).float()  # coarse, so that many scores are equal
        labels = torch.randint(0, 4, (60,), generator=generator)
        task = self.task(self.network(), None, metrics=("auc",))
        for _ in range(2):  # forgotten in between
            for part in (slice(0, 25), slice(25, 60)):
                task.update(logits[part], labels[part])
            expected = roc_auc_score(labels.numpy(), logits.softmax(1).numpy(), multi_class="ovr", average="macro")
            assert task.compute()["auc"].item() == pytest.approx(expected, abs=1e-6)
        assert "auc" not in self.task(self.network(), None).further

    def test_the_distance_is_the_divergence_of_softened_probabilities(self):
        ours, theirs = torch.randn(2, 3, 4, dtype=torch.float64)
        for temperature in (1.0, 4.0):
            task = self.task(self.network(), None, temperature=temperature)
            p, q = ((z / temperature).softmax(1) for z in (theirs, ours))
            expected = (p * (p / q).log()).sum(1).mean() * temperature**2
            assert torch.allclose(task.distance(ours, theirs), expected)
            assert task.distance(ours + 5, ours) < 1e-9  # a shift of all logits is no difference

    def test_label_smoothing_reaches_the_loss(self):
        logits, labels = torch.tensor([[20.0, 0, 0, 0]]), torch.tensor([0])
        plain, smooth = (
            ClassificationTask(self.network(), None, tuple("abcd"), label_smoothing=s).loss(logits, labels)
            for s in (0.0, 0.1)
        )
        assert plain < 1e-6 < 1 < smooth
