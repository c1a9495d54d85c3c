"""torchvision's LR-ASPP and SSDLite on MobileNetV3: its functions, its files, integers, a run."""

import pytest
import torch
from composing import settings_of
from deploy.exactness import assert_exact, quantized_for
from torch.nn.functional import interpolate
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.models import lraspp, ssdlite

SHAPE = (3, 64, 96)
SMALL = {"arch": "mobilenetv3_small", "width": 0.35}


def pixels(count, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


def saved(tmp_path, network):
    """A file of it with statistics that are not those of initialization."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), path := tmp_path / "net.pth")
    return str(path)


def test_torchvisions_segmenter(tmp_path):
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).eval()
    ours = lraspp.build(5, SHAPE, checkpoint=saved(tmp_path, theirs)).dense.eval()
    with torch.no_grad():
        logits = ours(pixels(2))
        assert logits.shape == (2, 5, 8, 12)
        torch.testing.assert_close(
            interpolate(logits, SHAPE[1:], mode="bilinear", align_corners=False), theirs(pixels(2))["out"]
        )


def test_torchvisions_detector(tmp_path):
    theirs = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    network = ssdlite.build(3, (3, 320, 320), checkpoint=saved(tmp_path, theirs))
    images = pixels(2, (3, 320, 320))
    with torch.no_grad():
        found = network.codec.decode(network.dense.eval()((images - 0.5) / 0.5))
        for a, b in zip(found, theirs(list(images)), strict=True):
            assert len(a["boxes"]) > 0
            torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-3, atol=1e-2)
            assert torch.equal(a["labels"], b["labels"])


@pytest.mark.parametrize("room", [lraspp, ssdlite])
def test_integers(room):
    torch.manual_seed(0)
    network = room.build(3, SHAPE, **SMALL).dense.eval()
    model = quantized_for(network, pixels(2))
    assert_exact(model, pixels(1), isas=[None], modes=["certified"])


@pytest.mark.parametrize("room", [lraspp, ssdlite])
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"width": 0.5, "pretrained": True}, "model.pretrained: torchvision has no weights of this width"),
        ({"input_shape": (1, 96, 96)}, "found 1 channels, expected 3"),
        ({"input_shape": (3, 32, 96)}, "at least 64x64"),
        ({"checkpoint": "nowhere.pth"}, "nowhere.pth: no such file"),
    ],
)
def test_bad_fields_are_named(room, fields, message):
    with pytest.raises(InputError, match=message):
        room.build(**({"num_classes": 3, "input_shape": SHAPE} | SMALL | fields))


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, model", [("detection", "ssdlite_mobilenetv3_small"), ("segmentation", "lraspp_mobilenetv3_small")]
)
def test_a_run(task, model, tmp_path):
    config = settings_of(
        f"task={task}", f"model={model}", "model.width=0.35", "method=int8", f"results={tmp_path}", "data.subset=32",
        "data.val_subset=8", "data.batch_size=8", "schedule.float.epochs=null", "schedule.float.steps=8",
        "schedule.float.warmup_steps=1", "schedule.finetune.epochs=null", "schedule.finetune.steps=4",
        "schedule.finetune.warmup_steps=1", "trainer.enable_progress_bar=false", "quantization.calibration_batches=2",
        "threads=1",
    )  # fmt: skip
    assert run(config).status == "finished"
