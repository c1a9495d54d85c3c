import pytest
import timm
import torch

from oaq_repro.errors import InputError
from oaq_repro.models.classification import build
from oaq_repro.quant.conversion.trace import fold
from oaq_repro.settings import schema


@pytest.mark.parametrize(
    ("arch", "width", "stem", "shape", "last_map"),
    [
        ("mobilenetv1", 0.25, "small", (1, 16, 16), (4, 4)),
        ("mobilenetv1", 0.5, "small", (3, 32, 32), (4, 4)),
        ("mobilenetv1", 0.25, "imagenet", (3, 96, 96), (3, 3)),
        ("mobilenetv2", 0.35, "small", (3, 32, 32), (4, 4)),
        ("mobilenetv2", 0.35, "imagenet", (3, 64, 96), (2, 3)),
        ("resnet18", 0.25, "small", (3, 32, 32), (4, 4)),
        ("resnet18", 0.25, "small", (1, 16, 16), (4, 4)),
        ("resnet50", 0.25, "imagenet", (3, 64, 64), (2, 2)),
    ],
)
def test_networks_have_the_shapes_asked_for_and_fold(arch, width, stem, shape, last_map):
    torch.manual_seed(0)
    network = build(7, shape, arch, width, stem)
    assert network.codec is None
    dense = network.dense
    images = torch.randn(4, *shape)
    with torch.no_grad():
        dense(images)  # moves the running statistics away from 0 and 1
        dense.eval()
        logits = dense(images)
        assert logits.shape == (4, 7)
        assert dense.forward_features(images).shape[2:] == last_map
        assert torch.allclose(fold(dense)(images), logits, atol=1e-3 * logits.abs().max())


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
@pytest.mark.parametrize("arch", ["mobilenetv1", "mobilenetv2"])
def test_a_small_stem_ends_at_maps_of_about_four(arch, side):
    dense = build(2, (3, side, side), arch, 0.25, "small").dense.eval()
    assert dense.forward_features(torch.zeros(1, 3, side, side)).shape[2:] == (4, 4)


def shapes(module):
    return {k: v.shape for k, v in module.state_dict().items()}


@pytest.mark.parametrize(
    ("arch", "width", "name"),
    [("mobilenetv2", 0.5, "mobilenetv2_050"), ("mobilenetv1", 1.0, "mobilenetv1_100"), ("resnet18", 1.0, "resnet18")],
)
def test_named_widths_are_those_of_timm(arch, width, name):
    assert shapes(build(1000, (3, 224, 224), arch, width).dense) == shapes(timm.create_model(name))


def test_a_small_mobilenet_takes_the_weights_of_a_full_one(tmp_path):
    torch.save(timm.create_model("mobilenetv2_035").state_dict(), tmp_path / "imagenet.pth")
    build(10, (3, 32, 32), "mobilenetv2", 0.35, "small", backbone_checkpoint=str(tmp_path / "imagenet.pth"))


def test_weights_that_cannot_be_downloaded_are_one_message(monkeypatch):
    def offline(name, pretrained=False, **_):
        assert pretrained
        raise ConnectionError("no route to host\nlong trace")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"mobilenetv2_100.*no route to host\).*model\.checkpoint=PATH"):
        build(10, (3, 224, 224), "mobilenetv2", pretrained=True)


def test_pretrained_asks_timm_for_the_named_width(monkeypatch):
    asked = []

    def download(name, pretrained=False, **fields):
        asked.append((name, pretrained, fields["num_classes"], fields["in_chans"]))
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(timm, "create_model", download)
    build(10, (1, 224, 224), "mobilenetv2", 0.5, pretrained=True)
    build(10, (3, 224, 224), "resnet50", pretrained=True)
    assert asked == [("mobilenetv2_050", True, 10, 1), ("resnet50", True, 10, 3)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"arch": "vgg16"}, r"model\.arch: found 'vgg16', expected 'mobilenetv1' or 'mobilenetv2'"),
        ({"width": 0}, r"model\.width: found 0"),
        ({"stem": "tiny"}, r"model\.stem: found 'tiny'"),
        ({"arch": "mobilenetv2", "width": 0.6, "pretrained": True}, "no weights of mobilenetv2 at width 0.6"),
        ({"arch": "resnet18", "width": 0.5, "pretrained": True}, "no weights of resnet18 at width 0.5"),
        ({"input_shape": (3, 16, 16)}, r"data\.input_shape: found \(3, 16, 16\)"),
        ({"checkpoint": "absent.pth"}, r"absent\.pth: no such file"),
    ],
)
def test_bad_fields_are_named(fields, expected):
    fields = {"kind": "classifier"} | fields
    shape = fields.pop("input_shape", (3, 64, 64))
    with pytest.raises(InputError, match=expected):
        schema.build("model", fields, num_classes=10, input_shape=shape)
