import pytest
import torch
from tasks.suite import TaskSuite

from oaq_repro.errors import InputError
from oaq_repro.models.classification import build as build_classifier
from oaq_repro.models.ssd import build
from oaq_repro.tasks.detection import DetectionTask

SIDE = 64


def target(boxes, labels, size=(SIDE, SIDE), iscrowd=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": torch.tensor(iscrowd or [0] * len(labels), dtype=torch.uint8),
        "area": torch.zeros(len(labels)),
        "image_id": 7,
        "size": size,
    }


class TestDetection(TaskSuite):
    STEPS, LR, LEARNED = 70, 1e-2, 0.9

    def network(self):
        fields = {"width": 0.25, "first_stride": 8, "levels": 3, "bn_momentum": 0.3, "aspect_ratios": (2,)}
        return build(2, (3, SIDE, SIDE), "mobilenetv1", "ssdlite", min_ratio=0.25, **fields)

    def task(self, network, schedule, **fields):
        return DetectionTask(network, schedule, ("dark", "light"), voc=True, **fields)

    def batch(self):
        """Dark and light rectangles on noise."""
        images = 0.1 * torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        targets = []
        for i in range(4):
            boxes = [[4 + 4 * i, 6, 28 + 4 * i, 30], [20, 36, 52, 60 - 3 * i]]
            for (x0, y0, x1, y1), colour in zip(boxes, (-1.5, 1.5), strict=True):
                images[i, :, y0:y1, x0:x1] += colour
            targets.append(target(boxes, [1, 2]))
        return images, targets

    def detections(self, task, monkeypatch, found):
        monkeypatch.setattr(task.codec, "decode", lambda maps: found)

    def test_right_boxes_score_one_in_original_pixels(self, monkeypatch):
        task = self.task(self.network(), None)
        boxes = torch.tensor([[8.0, 8, 24, 40], [30, 10, 60, 30]])
        found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "labels": torch.tensor([1, 2])}
        self.detections(task, monkeypatch, [found])
        task.update((), [target(boxes.tolist(), [1, 2], size=(30, 400))])
        assert task.compute() == {"map50": 1, "map": 1, "voc_ap": 1, "voc07_ap": 1}

    def test_boxes_are_measured_in_original_pixels(self, monkeypatch):
        task = self.task(self.network(), None)
        found = {
            "boxes": torch.tensor([[32.0, 16, 64, 64]]),
            "scores": torch.tensor([0.9]),
            "labels": torch.tensor([1]),
        }
        self.detections(task, monkeypatch, [found])
        task.update((), [target([[32, 16, 64, 64]], [1], size=(128, 32))])
        corner_and_size = [[16, 32, 16, 96]]
        assert task.map.detection_box[0].tolist() == corner_and_size == task.map.groundtruth_box[0].tolist()

    def test_a_wrong_class_is_wrong(self, monkeypatch):
        task = self.task(self.network(), None)
        found = {"boxes": torch.tensor([[8.0, 8, 24, 40]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([2])}
        self.detections(task, monkeypatch, [found])
        task.update((), [target([[8, 8, 24, 40]], [1])])
        assert task.compute()["map50"] == 0

    def test_ignored_boxes_count_neither_way(self, monkeypatch):
        task = self.task(self.network(), None)
        boxes = [[8.0, 8, 24, 40], [30, 10, 60, 30]]
        found = {"boxes": torch.tensor(boxes), "scores": torch.tensor([0.8, 0.9]), "labels": torch.tensor([1, 1])}
        missed = {key: value[:1] for key, value in found.items()}
        for detections in (found, missed):
            self.detections(task, monkeypatch, [detections])
            task.update((), [target(boxes, [1, 1], iscrowd=[0, 1])])
            assert task.compute() == {"map50": 1, "map": 1, "voc_ap": 1, "voc07_ap": 1}

    def test_a_second_detection_is_wrong_for_voc_though_it_would_do_for_the_object_beside_it(self, monkeypatch):
        task = self.task(self.network(), None)
        objects = [[0.0, 0, 20, 20], [6, 0, 26, 20]]
        found = {
            "boxes": torch.tensor([objects[0], [2.0, 0, 22, 20]]),
            "scores": torch.tensor([0.9, 0.8]),
            "labels": torch.tensor([1, 1]),
        }
        self.detections(task, monkeypatch, [found])
        task.update((), [target(objects, [1, 1])])
        metrics = task.compute()
        assert metrics["map50"] == 1 and metrics["voc_ap"] == 0.5

    def test_data_of_another_format_have_coco_metrics_alone(self, monkeypatch):
        task = DetectionTask(self.network(), None, ("dark", "light"))
        nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        self.detections(task, monkeypatch, [nothing])
        task.update((), [target([], [])])
        assert set(task.compute()) == {"map50", "map"}

    def test_images_without_boxes_and_without_detections_are_zero_not_minus_one(self, monkeypatch):
        task = self.task(self.network(), None)
        nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
        self.detections(task, monkeypatch, [nothing])
        task.update((), [target([], [])])
        assert task.compute() == {"map50": 0, "map": 0, "voc_ap": 0, "voc07_ap": 0}

    def test_a_classifier_is_no_detector(self):
        with pytest.raises(InputError, match="network without boxes"):
            DetectionTask(build_classifier(2, (3, 64, 64), width=0.25), None, ("a", "b"))
