import subprocess
import sys

import pytest
import timm
import torch

from oaq_repro.errors import InputError
from oaq_repro.models.mmseg_deeplab import build
from oaq_repro.quant.conversion.trace import fold
from oaq_repro.settings import schema

pytest.importorskip("mmengine", reason="the extra 'segmentation' is not installed")

SMALL = {"width": 0.25, "channels": 16, "aspp_dilations": (1, 3, 6)}


@pytest.mark.parametrize("stages", [5, 7])
def test_logits_at_stride_eight_fold_at_any_size(stages):
    torch.manual_seed(0)
    dense = build(11, (3, 64, 64), stages=stages, **SMALL).dense
    dense(torch.randn(4, 3, 64, 64))
    dense.eval()
    folded = fold(dense)
    with torch.no_grad():
        for height, width in ((64, 64), (96, 48)):
            images = torch.randn(2, 3, height, width)
            logits = dense(images)
            assert logits.shape == (2, 11, height // 8, width // 8)
            assert torch.allclose(folded(images), logits, atol=1e-3 * logits.abs().max())


def test_names_are_those_of_mmseg_and_a_file_round_trips(tmp_path):
    source = build(5, (3, 64, 64), **SMALL).dense
    names = set(source.state_dict())
    assert {"backbone.conv1.conv.weight", "backbone.layer7.0.conv.2.bn.bias", "decode_head.conv_seg.weight"} <= names
    torch.save(source.state_dict(), tmp_path / "deeplab.pth")
    target = build(5, (3, 64, 64), checkpoint=str(tmp_path / "deeplab.pth"), **SMALL).dense
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


@pytest.mark.parametrize("stages", [5, 7])
def test_the_backbone_computes_what_timm_computes_with_its_weights(tmp_path, stages):
    source = timm.create_model("mobilenetv2_035", num_classes=5)
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    fields = {"strides": (1, 2, 2, 2, 1, 2, 1), "dilations": (1,) * 7, "channels": 16}
    weights = str(tmp_path / "imagenet.pth")
    dense = build(5, (3, 64, 64), 0.35, stages, backbone_checkpoint=weights, **fields).dense
    source.eval(), dense.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = source.blocks[:stages](source.bn1(source.conv_stem(images)))
        ours = dense.backbone(images)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()  # kernels of other CPUs add up in other orders


def test_a_backbone_of_another_width_is_refused(tmp_path):
    torch.save(timm.create_model("mobilenetv2_050").state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(InputError, match=r"imagenet\.pth: is of another network.*other shape: blocks"):
        build(5, (3, 64, 64), 0.35, backbone_checkpoint=str(tmp_path / "imagenet.pth"))


def test_depthwise_weights_start_at_kaimings_deviation():
    backbone = build(5, (3, 64, 64), **SMALL).dense.backbone
    weight = backbone.layer5[1].conv[1].conv.weight
    assert weight.shape[1] == 1
    assert weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.15)  # fan out of one channel: 3 x 3


def test_operators_that_are_not_compiled_raise_when_called():
    build(5, (3, 64, 64), **SMALL)
    extension = sys.modules["mmcv._ext"]
    if extension.__spec__.origin is None:  # the stand-in, not a real mmcv
        with pytest.raises(RuntimeError, match="nms"):
            extension.nms()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({"input_shape": (1, 64, 64)}, "found 1 channels"), ({"stages": 9}, r"model\.stages: found 9")],
)
def test_bad_fields_are_named(fields, expected):
    fields = {"kind": "deeplabv3"} | fields
    shape = fields.pop("input_shape", (3, 64, 64))
    with pytest.raises(InputError, match=expected):
        schema.build("model", fields, num_classes=3, input_shape=shape)


def test_mmseg_is_imported_on_first_use_only():
    code = "import sys, oaq_repro.models.mmseg_deeplab; sys.exit(any(n in sys.modules for n in ('mmseg', 'mmcv')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
