"""Pascal VOC's own average precision, by the rules of its devkits; no library that is kept up has them.

Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 111 (2015), and VOCevaldet.m and
VOCap.m of the devkits. What differs from COCO's measure at IoU 0.5 (`map50`, pycocotools):

- a detection belongs to the object of its class that it overlaps most, whether that was found before or not: a second
  detection of an object is wrong, even where it would do for the object beside it
- an object marked difficult is nothing to find, and a detection that belongs to one counts neither way
- the area under the whole curve of precision over recall, not its mean at 101 points; of 2007: at 11 points
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

OVERLAP = 0.5
"""Least intersection over union with an object (VOCopts.minoverlap), inclusive."""
POINTS = 10
"""Recalls 0, 1/10, ..., 1 of the measure of 2007."""
WRONG, RIGHT, IGNORED = 0, 1, 2


class VocAveragePrecision(Metric):
    """Mean over the classes that have an object to find: `voc_ap` (2010 and later), `voc07_ap` (2007 to 2009).

    classes: their number; labels are 1..classes. Ties of scores keep the order in which the detections came, as the
    stable sort of the devkit does.
    """

    full_state_update = False
    labels: list[Tensor]
    scores: list[Tensor]
    verdicts: list[Tensor]
    objects: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("labels", "scores", "verdicts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("objects", default=torch.zeros(classes + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, found: Sequence[Mapping[str, Tensor]], truth: Sequence[Mapping[str, Tensor]]) -> None:
        """Judge the detections of some images.

        found: per image `boxes` [D, 4], `scores` [D], `labels` int64 [D]. truth: `boxes` [M, 4], `labels` int64 [M],
        `iscrowd` [M], not 0: difficult. Boxes are half-open (x0, y0, x1, y1) in original pixels, of which
        VOC's (x0 + 1, y0 + 1, x1, y1), with the last pixel inside, have the same areas.
        """
        for detection, wanted in zip(found, truth, strict=True):
            order = detection["scores"].argsort(descending=True, stable=True)
            labels, scores = detection["labels"][order], detection["scores"][order]
            sides = (detection["boxes"][order], labels, wanted["boxes"], wanted["labels"], wanted["iscrowd"] != 0)
            self.labels.append(labels)
            self.scores.append(scores)
            self.verdicts.append(judge(*(side.cpu() for side in sides)).to(labels.device))
            self.objects += torch.bincount(wanted["labels"][wanted["iscrowd"] == 0], minlength=len(self.objects))

    def compute(self) -> dict[str, Tensor]:
        """`voc_ap` and `voc07_ap`; 0 where no class has an object to find."""
        labels, scores, verdicts = (_joined(state) for state in (self.labels, self.scores, self.verdicts))
        order = scores.argsort(descending=True, stable=True)
        order = order[verdicts[order] != IGNORED]
        labels, right = labels[order], verdicts[order] == RIGHT
        whole, eleven = [], []
        for label in self.objects.nonzero().flatten().tolist():
            hits = right[labels == label].cumsum(0)
            objects = int(self.objects[label])
            whole.append(area_under_curve(hits, objects))
            eleven.append(eleven_points(hits, objects))
        return {"voc_ap": _mean(whole), "voc07_ap": _mean(eleven)}


def judge(boxes: Tensor, labels: Tensor, truth: Tensor, truth_labels: Tensor, difficult: Tensor) -> Tensor:
    """WRONG, RIGHT or IGNORED for each detection of one image, best scores first; uint8 [D], all on the CPU."""
    verdicts = torch.full((len(boxes),), WRONG, dtype=torch.uint8)
    if not len(boxes) or not len(truth):
        return verdicts
    overlaps = box_iou(boxes.double(), truth.double()).masked_fill(labels[:, None] != truth_labels, 0.0)
    overlap, nearest = overlaps.max(dim=1)
    belongs = overlap >= OVERLAP
    ranks = torch.arange(len(boxes))
    first = torch.full((len(truth),), len(boxes)).scatter_reduce(0, nearest[belongs], ranks[belongs], "amin")
    verdicts[belongs & (first[nearest] == ranks)] = RIGHT
    verdicts[belongs & difficult[nearest]] = IGNORED
    return verdicts


def area_under_curve(hits: Tensor, objects: int) -> float:
    """Area under precision over recall, where a precision is the best at that recall or a larger one.

    hits: int64 [D], how many of the first 1, 2, ... detections of the class are right. objects: to find, at least 1.
    """
    new = hits.diff(prepend=hits.new_zeros(1)) > 0  # recall grows here, each time by one object
    return float(_best_from_here(hits)[new].sum()) / objects


def eleven_points(hits: Tensor, objects: int) -> float:
    """Mean of the best precisions at recalls of at least 0, 1/10, ..., 1; arguments as `area_under_curve`.

    The recalls are exact, where a devkit's 0:0.1:1 has a 0.3 that is a rounding error above 3 of 10 objects.
    """
    best = _best_from_here(hits)
    reached = (hits[:, None] * POINTS >= torch.arange(POINTS + 1, device=hits.device) * objects).int()
    first = reached.argmax(dim=0) if len(hits) else None
    return 0.0 if first is None else float((best[first] * reached.any(dim=0)).sum()) / (POINTS + 1)


def _best_from_here(hits: Tensor) -> Tensor:
    """Largest precision of each detection and those after it."""
    precision = hits.double() / torch.arange(1, len(hits) + 1, device=hits.device)
    return precision.flip(0).cummax(0).values.flip(0)


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """A state as one tensor on the CPU: a list in one process, joined already after several."""
    parts = [state] if isinstance(state, Tensor) else state
    return torch.cat(parts).cpu() if parts else torch.zeros(0)


def _mean(values: list[float]) -> Tensor:
    return torch.tensor(sum(values) / len(values) if values else 0.0)
