"""Image classification: cross entropy, top-1 accuracy."""

from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from oaq_repro.fields import Fraction
from oaq_repro.models.network import Network
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule


class ClassificationTask(Task):
    """Batches: images float32 [N, C, H, W], labels int64 [N]. Metric `top1`: fraction of images that are right.

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
    ) -> None:
        super().__init__(network, schedule, classes)
        self.label_smoothing = label_smoothing
        self.top1 = MulticlassAccuracy(num_classes=len(self.classes), average="micro")

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy of logits [N, classes]."""
        return cross_entropy(outputs, target, label_smoothing=self.label_smoothing)

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Count the right ones."""
        self.top1.update(outputs.argmax(dim=1), target)

    def compute(self) -> dict[str, Tensor]:
        """`top1`."""
        value = self.top1.compute()
        self.top1.reset()
        return {"top1": value}
