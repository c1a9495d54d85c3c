import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks.suite import TaskSuite
from torch import nn

from oaq_repro.models.network import Network
from oaq_repro.tasks.segmentation import SegmentationTask


class Net(nn.Sequential):
    """Masks at half the size of the image; DeepLabV3 itself is tested with the models."""

    def __init__(self, classes=3):
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 1)
        )


class TestSegmentation(TaskSuite):
    STEPS, LR, LEARNED = 60, 3e-2, 0.85

    def network(self):
        return Network(Net())

    def task(self, network, schedule, **fields):
        return SegmentationTask(network, schedule, ("nothing", "dark", "light"), **fields)

    def batch(self):
        images = 0.1 * torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
        masks = torch.zeros(2, 24, 32, dtype=torch.int64)
        for label, colour, columns in ((1, -1.5, slice(4, 14)), (2, 1.5, slice(18, 28))):
            images[:, :, 6:18, columns] += colour
            masks[:, 6:18, columns] = label
        masks[:, :2] = 255
        return images, masks

    def test_pixels_that_do_not_count_change_nothing(self):
        task = self.task(self.network(), None)
        _, masks = self.batch()
        logits = torch.randn(2, 3, 12, 16)
        void = masks == 255
        other = task.resize(logits, masks).clone()
        other[void.unsqueeze(1).expand_as(other)] += 7 * torch.randn(int(void.sum()) * 3)
        assert torch.allclose(task.loss(other, masks), task.loss(logits, masks))
        scores = []
        for outputs in (other, logits):
            task.update(outputs, masks)
            scores.append(task.compute()["miou"])
        assert scores[0] == scores[1]

    def test_the_layout_of_the_logits_in_memory_changes_nothing(self):
        """torch interpolates channels-last maps with other roundings, and 8-bit logits tie often."""
        names = tuple(map(str, range(21)))
        task = SegmentationTask(Network(Net(21)), None, names)
        draw = torch.Generator().manual_seed(0)
        logits = 0.0123 * torch.randint(0, 3, (8, 21, 9, 9), generator=draw) - 0.5
        masks = torch.randint(0, 21, (8, 65, 65), generator=draw)
        scores = []
        for layout in (torch.contiguous_format, torch.channels_last):
            task.update(logits.contiguous(memory_format=layout), masks)
            scores.append(task.compute()["miou"])
        assert scores[0] == scores[1]

    def test_a_mask_of_nothing_but_void_has_loss_zero(self):
        loss = self.task(self.network(), None).loss(torch.randn(1, 3, 4, 4), torch.full((1, 8, 8), 255))
        assert loss == 0

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**31 - 1), st.integers(2, 6))
    def test_miou_is_over_all_pixels_and_the_classes_that_occur(self, seed, classes):
        generator = torch.Generator().manual_seed(seed)
        task = SegmentationTask(Network(Net(classes)), None, tuple(map(str, range(classes))))
        masks = torch.randint(0, classes, (3, 5, 7), generator=generator)
        masks[masks == 1] = 255 if seed % 2 else 0  # class 1 is absent
        guesses = torch.randint(0, classes, (3, 5, 7), generator=generator)
        guesses[guesses == 1] = 0
        for mask, guess in zip(masks, guesses, strict=True):
            logits = nn.functional.one_hot(guess, classes).permute(2, 0, 1).float()
            task.update(logits[None], mask[None])
        valid = masks != 255
        ious = []
        for k in range(classes):
            found, wanted = (guesses == k) & valid, (masks == k) & valid
            if (found | wanted).any():
                ious.append(((found & wanted).sum() / (found | wanted).sum()).item())
        assert task.compute()["miou"].item() == pytest.approx(sum(ious) / len(ious), abs=1e-6)

    def test_logits_are_resized_to_each_mask(self):
        task = self.task(self.network(), None)
        assert task.resize(torch.zeros(1, 3, 5, 6), torch.zeros(1, 17, 31)).shape == (1, 3, 17, 31)
