"""VOC's average precision: values worked out by hand, and the devkit's rules as plain loops over fractions."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oaq_repro.tasks.voc_ap import VocAveragePrecision

OBJECT, BESIDE, NOWHERE = (0, 0, 10, 10), (20, 0, 30, 10), (40, 40, 50, 50)


def found(*detections):
    """Detections (score, box) or (score, box, label)."""
    rows = [(*row, 1)[:3] for row in detections]
    boxes = torch.tensor([box for _, box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([label for *_, label in rows], dtype=torch.int64)
    return {"boxes": boxes, "scores": torch.tensor([score for score, *_ in rows]), "labels": labels}


def truth(*objects):
    """Objects: box, (box, label) or (box, label, difficult)."""
    rows = [(*(row if isinstance(row[0], tuple) else (row,)), 1, 0) for row in objects]
    rows = [(row[0], row[1], row[2] if len(row) == 5 else 0) for row in rows]
    boxes = torch.tensor([box for box, _, _ in rows], dtype=torch.float32).reshape(-1, 4)
    labels, flags = ([row[i] for row in rows] for i in (1, 2))
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "iscrowd": torch.tensor(flags)}


def measured(images, classes=3):
    metric = VocAveragePrecision(classes)
    for detections, objects in images:
        metric.update([detections], [objects])
    return {name: float(value) for name, value in metric.compute().items()}


# precision at recall 1/2 and 1: 1 and 2/3; of the eleven recalls six are at most 1/2
RIGHT_WRONG_RIGHT = [(found((0.9, OBJECT), (0.8, NOWHERE), (0.7, BESIDE)), truth(OBJECT, BESIDE))]


@pytest.mark.parametrize(
    ("images", "whole", "eleven"),
    [
        pytest.param([(found((0.9, OBJECT)), truth(OBJECT))], 1, 1, id="found"),
        pytest.param([(found(), truth(OBJECT))], 0, 0, id="missed"),
        pytest.param([(found((0.9, OBJECT)), truth())], 0, 0, id="nothing to find"),
        pytest.param([(found((0.9, OBJECT)), truth(OBJECT, BESIDE))], 1 / 2, 6 / 11, id="half found"),
        pytest.param(RIGHT_WRONG_RIGHT, 1 / 2 + 1 / 3, (6 + 5 * 2 / 3) / 11, id="right, wrong, right"),
        pytest.param(
            [(found((0.7, NOWHERE), (0.8, OBJECT), (0.9, OBJECT)), truth(OBJECT, BESIDE))], 1 / 2, 6 / 11,
            id="the second detection of an object is wrong, in order of score",
        ),
        pytest.param([(found((0.9, NOWHERE), (0.8, OBJECT)), truth(OBJECT))], 1 / 2, 1 / 2, id="wrong, right"),
        pytest.param([(found((0.9, OBJECT, 2)), truth(OBJECT))], 0, 0, id="of another class"),
        pytest.param([(found((0.9, (0, 0, 10, 5))), truth(OBJECT))], 1, 1, id="overlap of exactly a half"),
        pytest.param([(found((0.9, (0, 0, 10, 4.99))), truth(OBJECT))], 0, 0, id="overlap of less"),
        pytest.param(
            [(found((0.9, BESIDE), (0.8, OBJECT), (0.7, BESIDE)), truth(OBJECT, (BESIDE, 1, 1)))], 1, 1,
            id="difficult ones count neither way, found or not, however often",
        ),
        pytest.param([(found((0.9, BESIDE)), truth((BESIDE, 1, 1)))], 0, 0, id="difficult ones only"),
        pytest.param(
            [(found((0.9, OBJECT), (0.8, BESIDE, 2)), truth(OBJECT, (BESIDE, 2), ((60, 60, 70, 70), 2)))],
            (1 + 1 / 2) / 2, (1 + 6 / 11) / 2, id="mean over classes; the third has no object",
        ),
        pytest.param(
            [(found((0.5, NOWHERE)), truth()), (found((0.5, OBJECT)), truth(OBJECT))], 1 / 2, 1 / 2,
            id="ties in the order of the images",
        ),
        pytest.param(
            # (1, 0, 11, 10) overlaps OBJECT by 9/11 and (3, 0, 13, 10) by 8/12: it belongs to OBJECT, which is taken
            [(found((0.9, OBJECT), (0.8, (1, 0, 11, 10))), truth(OBJECT, (3, 0, 13, 10)))], 1 / 2, 6 / 11,
            id="a detection belongs to the object that it overlaps most, taken or not",
        ),
    ],
)  # fmt: skip
def test_by_hand(images, whole, eleven):
    assert measured(images) == pytest.approx({"voc_ap": whole, "voc07_ap": eleven})


def test_recalls_of_the_eleven_points_are_exact():
    """3 of 10 objects reach 0.3, and 7 of 10 0.7; sums of 0.1 would miss both."""
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    for count in range(11):
        images = [(found(*((0.9, box) for box in boxes[:count])), truth(*boxes))]
        assert measured(images)["voc07_ap"] == pytest.approx((count + 1) / 11 if count else 0)


def overlap(a, b):
    """As VOCevaldet.m: corners count from 1 and the last pixel is inside."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = ((x0 + 1, y0 + 1, x1, y1) for x0, y0, x1, y1 in (a, b))
    width, height = min(ax1, bx1) - max(ax0, bx0) + 1, min(ay1, by1) - max(ay0, by0) + 1
    if width <= 0 or height <= 0:
        return Fraction(0)
    areas = (ax1 - ax0 + 1) * (ay1 - ay0 + 1) + (bx1 - bx0 + 1) * (by1 - by0 + 1)
    return Fraction(width * height, areas - width * height)


def by_the_rules(images, label):
    """(whole, eleven) of one class as the devkit goes about it; None where it has no object."""
    detections = [(-score, i, box) for i, (rows, _) in enumerate(images) for score, box, own in rows if own == label]
    detections.sort(key=lambda row: row[0])
    objects = sum(not difficult for _, rows in images for _, own, difficult in rows if own == label)
    taken, right, wrong, curve = set(), 0, 0, []
    for _, i, box in detections:
        best, which, is_difficult = Fraction(0), None, False
        for j, (other, own, difficult) in enumerate(images[i][1]):
            if own == label and overlap(box, other) > best:
                best, which, is_difficult = overlap(box, other), j, difficult
        if best >= Fraction(1, 2) and is_difficult:
            continue
        if best >= Fraction(1, 2) and (i, which) not in taken:
            taken.add((i, which))
            right += 1
        else:
            wrong += 1
        curve.append((Fraction(right, objects or 1), Fraction(right, right + wrong)))
    if not objects:
        return None
    eleven = sum(max((p for r, p in curve if r >= Fraction(t, 10)), default=Fraction(0)) for t in range(11)) / 11
    whole, before = Fraction(0), Fraction(0)
    for position, (recall, _) in enumerate(curve):
        whole += (recall - before) * max(p for _, p in curve[position:])
        before = recall
    return whole, eleven


SIDE = st.integers(0, 6)
BOX = st.tuples(SIDE, SIDE, st.integers(1, 6), st.integers(1, 6)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
LABEL = st.integers(1, 3)
SCORE = st.sampled_from([0.25, 0.5, 0.75, 1.0])  # with many ties, as 8-bit scores have
IMAGE = st.tuples(
    st.lists(st.tuples(SCORE, BOX, LABEL), max_size=8), st.lists(st.tuples(BOX, LABEL, st.booleans()), max_size=5)
)


@given(st.lists(IMAGE, min_size=1, max_size=4))
def test_as_the_devkit(images):
    expected = [values for label in (1, 2, 3) if (values := by_the_rules(images, label)) is not None]
    means = [float(sum(values) / len(expected)) for values in zip(*expected, strict=True)] or [0.0, 0.0]
    seen = measured([(found(*detections), truth(*objects)) for detections, objects in images])
    assert seen == pytest.approx(dict(zip(("voc_ap", "voc07_ap"), means, strict=True)), abs=1e-6)


def test_batches_and_processes_change_nothing():
    """What two processes have seen is joined as torchmetrics joins it."""
    images = [*RIGHT_WRONG_RIGHT, (found((0.85, NOWHERE), (0.75, OBJECT)), truth(OBJECT, (BESIDE, 2)))]
    one, *parts = (VocAveragePrecision(3) for _ in range(3))
    one.update(*zip(*images, strict=True))
    for part, (detections, objects) in zip(parts, images, strict=True):
        part.update([detections], [objects])
    joined = VocAveragePrecision(3)
    for name in ("labels", "scores", "verdicts"):
        setattr(joined, name, torch.cat([torch.cat(getattr(part, name)) for part in parts]))
    joined.objects = sum(part.objects for part in parts)
    joined._update_count = 1
    assert joined.compute() == one.compute() == measured(images)


def test_another_evaluation_starts_anew():
    metric = VocAveragePrecision(1)
    metric.update([found()], [truth(OBJECT)])
    assert metric.compute()["voc_ap"] == 0
    metric.reset()
    metric.update([found((0.9, OBJECT))], [truth(OBJECT)])
    assert metric.compute() == {"voc_ap": 1, "voc07_ap": 1}
