from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection.ssd import SSD, SSDHead

from oaq_repro.errors import InputError
from oaq_repro.models.ssd import build
from oaq_repro.quant.conversion.trace import fold
from oaq_repro.settings import schema

SHAPE = (3, 96, 96)
SMALL = {"width": 0.25, "first_stride": 8, "levels": 4}


def target(boxes, labels, iscrowd=None):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": torch.tensor(iscrowd or [0] * len(labels), dtype=torch.uint8),
    }


TARGETS = [target([[10, 10, 40, 44], [50, 40, 90, 92]], [1, 3]), target([[0, 0, 20, 20]], [2])]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build(3, SHAPE, "mobilenetv1", "ssd", **SMALL)
    network.dense.eval()
    return network


@pytest.fixture
def images():
    return torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))


class Features(nn.Module):
    """Gives torchvision's SSD the feature maps of our dense part."""

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def forward(self, image):
        found = []
        hooks = [c.register_forward_pre_hook(lambda _, x: found.append(x[0])) for c in self.dense.classification]
        self.dense(image)
        for hook in hooks:
            hook.remove()
        return OrderedDict((str(i), f) for i, f in enumerate(found))


@pytest.fixture
def reference(network):
    """A complete torchvision SSD of the same weights."""
    channels = [conv.in_channels for conv in network.dense.classification]
    head = SSDHead(channels, network.codec.anchors_per_cell, 4)
    head.classification_head.module_list = network.dense.classification
    head.regression_head.module_list = network.dense.regression
    generator = network.codec.ssd.anchor_generator
    return SSD(Features(network.dense), generator, SHAPE[1:], 4, [0.0] * 3, [1.0] * 3, head)


def test_the_loss_is_that_of_torchvision(network, reference, images):
    reference.training = True  # its mode, not that of the batch norms
    reference.transform.training = True
    losses = reference(list(images), [{k: t[k] for k in ("boxes", "labels")} for t in TARGETS])
    ours = network.codec.loss(network.dense(images), TARGETS)
    assert torch.allclose(ours, losses["bbox_regression"] + losses["classification"], rtol=1e-5)


def test_detections_are_those_of_torchvision(network, reference, images):
    reference.eval()
    with torch.no_grad():
        for ours, theirs in zip(network.codec.decode(network.dense(images)), reference(list(images)), strict=True):
            assert len(ours["boxes"]) > 0
            for key in ("boxes", "scores", "labels"):
                assert torch.allclose(ours[key], theirs[key], atol=1e-4)


def test_ignored_and_empty_boxes_are_not_trained_on(network, images):
    maps = network.dense(images)
    extra = [
        target([*t["boxes"].tolist(), [30, 30, 60, 60], [5, 5, 5, 9]], [*t["labels"].tolist(), 1, 2], iscrowd)
        for t, iscrowd in zip(TARGETS, ([0, 0, 1, 0], [0, 1, 0]), strict=True)
    ]
    assert torch.equal(network.codec.loss(maps, extra), network.codec.loss(maps, TARGETS))


def test_images_without_boxes_have_a_finite_loss(network, images):
    loss = network.codec.loss(network.dense(images), [target([], []), target([], [])])
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("arch", "head", "channels"),
    [
        ("mobilenetv1", "ssd", [512, 1024, 512, 256, 256, 128]),
        ("mobilenetv2", "ssdlite", [576, 1280, 512, 256, 256, 128]),
    ],
)
def test_levels_at_300_pixels_are_those_of_the_papers(arch, head, channels):
    network = build(20, (3, 300, 300), arch, head)
    network.dense.eval()
    with torch.no_grad():
        maps = network.dense(torch.zeros(1, 3, 300, 300))
    assert [m.shape[2] for m in maps[::2]] == [19, 10, 5, 3, 2, 1]
    assert [m.shape[1] for m in maps] == [6 * 21, 6 * 4] * 6
    first = [block if head == "ssd" else block[0][0] for block in network.dense.classification]
    assert [conv.in_channels for conv in first] == channels


@pytest.mark.parametrize(("arch", "head"), [("mobilenetv1", "ssd"), ("mobilenetv2", "ssdlite")])
def test_the_dense_part_folds_and_uses_all_its_weights(arch, head, images):
    dense = build(3, SHAPE, arch, head, **SMALL).dense
    maps = dense(images)
    sum(m.sum() for m in maps).backward()
    assert [name for name, p in dense.named_parameters() if p.grad is None] == []
    dense.eval()
    with torch.no_grad():
        for ours, folded in zip(dense(images), fold(dense)(images), strict=True):
            assert torch.allclose(ours, folded, atol=1e-3 * ours.abs().max())


def test_imagenet_weights_from_a_file_fill_the_backbone(tmp_path, images):
    import timm

    source = timm.create_model("mobilenetv2_035", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    dense = build(3, SHAPE, "mobilenetv2", width=0.35, backbone_checkpoint=str(tmp_path / "imagenet.pth")).dense
    dense.eval(), source.eval().to(memory_format=torch.channels_last)  # as ours lie: other sums round differently
    with torch.no_grad():
        x = images
        for names in dense.segments:
            for name in names:
                x = dense.backbone.get_submodule(name)(x)
        assert torch.equal(x, source.forward_features(images))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"arch": "resnet18"}, r"model\.arch: found 'resnet18'"),
        ({"head": "yolo"}, r"model\.head: found 'yolo'"),
        ({"first_stride": 4}, r"model\.first_stride: found 4"),
        ({"min_ratio": 0.9, "max_ratio": 0.5}, r"model\.min_ratio, model\.max_ratio: found 0\.9 and 0\.5"),
        ({"levels": 1}, r"model\.levels: found 1, expected 2 .* to 6"),
        ({"levels": 7}, r"model\.levels: found 7"),
        ({"input_shape": (3, 32, 32)}, r"data\.input_shape"),
    ],
)
def test_bad_fields_are_named(fields, expected):
    fields = {"kind": "ssd", "width": 0.25} | fields
    shape = fields.pop("input_shape", SHAPE)
    with pytest.raises(InputError, match=expected):
        schema.build("model", fields, num_classes=3, input_shape=shape)
