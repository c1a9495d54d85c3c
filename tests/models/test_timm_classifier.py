import pytest
import timm
import torch
from composing import built, composed

from oaq_repro.errors import InputError
from oaq_repro.models.timm_classifier import build


def test_any_network_of_timm_with_its_options():
    dense = build(7, (1, 64, 64), "mobilenetv2_050", options={"pad_type": "same", "drop_rate": 0.1}).dense
    assert dense(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert type(dense.conv_stem).__name__ == "Conv2dSame"


def test_weights_from_a_file(tmp_path):
    state = timm.create_model("regnetx_002", num_classes=4).state_dict()
    torch.save({"model": state}, path := tmp_path / "net.pth")
    dense = build(4, (3, 64, 64), "regnetx_002", checkpoint=str(path)).dense
    assert all(torch.equal(value, state[name]) for name, value in dense.state_dict().items())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"arch": "mobilnetv2_100"}, r"model\.arch: found 'mobilnetv2_100', expected a name of timm: mobilenetv2_100"),
        ({"arch": "§"}, r"model\.arch: found '§', expected a name of timm$"),
        ({"arch": "resnet18", "options": {"wings": 2}}, r"model\.options: found {'wings': 2}.*resnet18"),
        ({"arch": "efficientnet_lite0", "pretrained": True, "options": {"wings": 2}}, r"model\.(options|pretrained)"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(InputError, match=message):
        build(4, (3, 64, 64), **fields)


def test_the_data_take_the_mean_and_deviation_that_a_network_expects():
    plain, other = composed("data=imagenet"), composed("data=imagenet", "model=tf_efficientnet_lite0")
    assert plain.data.mean == [0.485, 0.456, 0.406] and plain.data.std == [0.229, 0.224, 0.225]
    assert other.data.mean == other.data.std == [0.5, 0.5, 0.5]
    assert composed("data=imagenet", "model=timm", "model.arch=regnetx_002").data.mean == plain.data.mean
    network = built("model", "model=tf_efficientnet_lite0", num_classes=3, input_shape=(3, 64, 64))
    assert network.dense.num_classes == 3
