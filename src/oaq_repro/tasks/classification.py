"""Image classification: cross entropy, top-1 accuracy, and further metrics by name."""

from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

from oaq_repro.fields import Fraction, Positive
from oaq_repro.models.network import Network
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule

FURTHER = {"auc": MulticlassAUROC}
"""Metrics that a configuration may name."""


class ClassificationTask(Task):
    """Batches: images float32 [N, C, H, W], labels int64 [N]. Metric `top1`: fraction of images that are right.

    `metrics` adds by name: `auc`, the area under the curve of true over false positives (ROC) of one class against the
    others by its softmax over the classes, mean over the classes; exact, equal scores count half.

    With a float parent also `agreement`: fraction of images whose first place is the parent's, which tells networks
    apart that differ by less than the noise of `top1`.

    8-bit logits tie now and then (3 to 11 of 650 ImageNet images): the class with the lowest index wins, as in
    `torch.argmax` and `numpy.argmax`, so that float, simulated and integer networks are judged alike.
    """

    METRIC = "top1"

    def __init__(
        self,
        network: Network,
        schedule: Schedule | None,
        classes: tuple[str, ...],
        label_smoothing: Fraction = 0.0,
        temperature: Positive = 1.0,
        metrics: tuple[Literal["auc"], ...] = (),
        **common: Any,
    ) -> None:
        """label_smoothing: of the labels' loss. temperature: of the loss with a teacher (`distance`)."""
        super().__init__(network, schedule, classes, **common)
        self.label_smoothing, self.temperature = label_smoothing, temperature
        self.top1 = MulticlassAccuracy(num_classes=len(self.classes), average="micro")
        self.further = MetricCollection({name: FURTHER[name](num_classes=len(self.classes)) for name in metrics})
        self.agreement = MulticlassAccuracy(num_classes=len(self.classes), average="micro")

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy of logits [N, classes]."""
        return cross_entropy(outputs, target, label_smoothing=self.label_smoothing)

    def distance(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """Kullback-Leibler divergence of softmax(logits / T) from the teacher's, times T^2, mean over images.

        T: `temperature`. Hinton et al. 2015, section 2: the factor keeps the size of the gradient.
        """
        student, teacher = (log_softmax(logits / self.temperature, dim=1) for logits in (outputs, taught))
        return kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Count the right ones."""
        self.top1.update(outputs.argmax(dim=1), target)
        self.further.update(outputs.softmax(dim=1), target)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add a held-out batch to the metrics."""
        images, target = batch
        outputs = self(images)
        self.update(outputs, target)
        if self.parent is not None:
            self.agreement.update(outputs.argmax(dim=1), self.parent(images).argmax(dim=1))

    def compute(self) -> dict[str, Tensor]:
        """`top1`, those asked for by name, and `agreement` where there is a parent."""
        values = {"top1": self.top1.compute(), **self.further.compute()}
        if self.parent is not None:
            values["agreement"] = self.agreement.compute()
        for metric in (self.top1, self.further, self.agreement):
            metric.reset()
        return values
