import pytest
import timm
import torch
from quant.networks import Classifier, Pyramid, images, trained, unit
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.quant.trace import fold


@pytest.mark.parametrize("network", [Classifier, Pyramid])
def test_folding_keeps_the_function(network):
    model = trained(network())
    folded = fold(model)
    assert not any(isinstance(m, (nn.BatchNorm2d, nn.Dropout)) for m in folded.modules())
    for found, expected in zip(folded(images()), model(images()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv1_100", "mobilenetv2_100", "resnet18"])
def test_timm_networks_fold(name):
    model = trained(timm.create_model(name, num_classes=7))
    x = images(2, 64)
    torch.testing.assert_close(fold(model)(x), model(x), rtol=1e-3, atol=1e-3)


def test_the_float_network_is_left_alone():
    model = trained(Classifier())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fold(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_batch_norm_without_a_convolution_is_an_error():
    with pytest.raises(InputError, match="batch norm follows"):
        fold(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


def test_a_convolution_that_is_read_twice_cannot_absorb_a_batch_norm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    with pytest.raises(InputError, match="2 consumers"):
        fold(Twice())


def test_control_flow_is_one_clear_error():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="Branch: cannot be traced"):
        fold(Branch())


def test_units_of_one_convolution_fold():
    model = trained(unit(3, 4, 3))
    torch.testing.assert_close(fold(model)(images()), model(images()), rtol=1e-4, atol=1e-4)


def test_sizes_are_numbers_where_there_is_no_other_way():
    class Cropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 3), nn.ReLU()

        def forward(self, x):
            n, _, h, w = x.shape
            if x.dim() != 4 or x.ndim != 4 or h < w:
                raise ValueError("expected an upright image")
            x = self.act(self.conv(x)) if h > 2 * (x.size(-1) // 2) else self.conv(x)
            return x.reshape(n, -1)

    model = trained(Cropped())
    with pytest.raises(InputError, match="or on sizes where no input_shape is given"):
        fold(model)
    with pytest.raises(InputError, match="cannot be traced with torch.fx .expected an upright image"):
        fold(model, (3, 7, 8))
    for shape in ((3, 9, 8), (3, 8, 8)):
        x = torch.randn(2, *shape)  # two images, though it is traced with one
        torch.testing.assert_close(fold(model, shape)(x), model(x))
