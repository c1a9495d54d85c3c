"""Pretrained networks on real photographs: floats are timm's own, integers those of ONNX Runtime."""

from itertools import islice

import pytest
import timm
import torch
from deploy.exactness import assert_exact
from safetensors.torch import load_file

from oaq_repro.accumulator import NAMED
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.methods.int8 import Int8
from oaq_repro.models.timm_classifier import build
from oaq_repro.quant.calibration.calibrate import calibrate
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.conversion.trace import fold

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::oaq_repro.data.notes.DataWarning")]
NETWORKS = {
    "tf_efficientnet_lite0": ("tf_efficientnet_lite0", {}, 0.80),
    "mobilenetv2_100_same": ("mobilenetv2_100", {"pad_type": "same"}, 0.77),
}
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def photographs(shared_data):
    """Batches of images as the suite reads them: nothing is resized, the central 224 of 227 pixels."""
    data = ImageNet(
        root=shared_data / "imagenet", image_size=224, crop_fraction=0.987, calibration_images=64, batch_size=50,
        num_workers=0, subset=None, val_subset=None, seed=0, mean=HALF, std=HALF,
    )  # fmt: skip
    data.setup()
    return data


@pytest.mark.parametrize("name", NETWORKS)
def test_float_predictions_are_timms_own(shared_data, photographs, name):
    arch, options, least = NETWORKS[name]
    weights = shared_data / "weights" / f"{name}.safetensors"
    theirs = timm.create_model(arch, **options).eval()
    theirs.load_state_dict(load_file(weights))
    ours = build(len(photographs.classes), photographs.input_shape, arch, options, checkpoint=str(weights)).dense.eval()
    folded = fold(ours, photographs.input_shape)
    right = seen = 0
    with torch.no_grad():
        for images, labels in islice(photographs.val_dataloader(), 0, None, 4):  # they are in the order of classes
            expected = theirs(images)
            for found in (ours(images), folded(images)):  # in another layout, and so in another order of sums
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
                assert torch.equal(found.argmax(1), expected.argmax(1))
            right, seen = right + int((expected.argmax(1) == labels).sum()), seen + len(labels)
    assert seen == 236 and right / seen > least


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_those_of_onnx_runtime(shared_data, photographs, name):
    arch, options, _ = NETWORKS[name]
    weights = shared_data / "weights" / f"{name}.safetensors"
    dense = build(len(photographs.classes), photographs.input_shape, arch, options, checkpoint=str(weights)).dense
    model = quantize_network(dense, Int8(), QuantizationConfig(NAMED["int32"]), photographs.input_shape)
    calibrate(model, [next(iter(photographs.calibration_dataloader()))[0]])
    images = next(iter(photographs.val_dataloader()))[0][:16]
    assert_exact(model.eval(), images, isas=[None], modes=["certified", "fast"], reference=False)
    with torch.no_grad():
        agreeing = (model(images).argmax(1) == dense.eval()(images).argmax(1)).sum()
    assert agreeing >= 14
