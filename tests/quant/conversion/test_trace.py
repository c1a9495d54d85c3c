import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from quant.networks import Classifier, Gated, Pyramid, images, shuffled, trained, unit
from timm.layers import BatchNormAct2d
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.trace import fold


@pytest.mark.parametrize("network", [Classifier, Gated, Pyramid])
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


def test_a_batch_norm_that_stands_alone_is_a_depthwise_convolution():
    model = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Hardswish()))
    folded = fold(model)
    layer = folded.get_submodule("1")
    assert isinstance(layer, nn.Conv2d) and layer.groups == 3 and layer.kernel_size == (1, 1)
    torch.testing.assert_close(folded(images()), model(images()))


def test_a_batch_norm_with_an_activation_that_stands_alone():
    model = trained(nn.Sequential(nn.MaxPool2d(2), BatchNormAct2d(3, act_layer=nn.Hardswish)))
    torch.testing.assert_close(fold(model)(images()), model(images()))


def test_a_batch_norm_that_stands_alone_on_vectors_is_an_error():
    with pytest.raises(InputError, match="BatchNorm1d follows .*linear layer"):
        fold(nn.Sequential(nn.Flatten(), nn.ReLU(), nn.BatchNorm1d(3)))


def test_a_convolution_that_is_read_twice_does_not_absorb_a_batch_norm():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    model = trained(Twice())
    torch.testing.assert_close(fold(model)(images()), model(images()))


def _permuted(x, groups):
    x = x.reshape(-1, groups, x.shape[1] // groups, x.shape[2], x.shape[3])
    return x.permute(0, 2, 1, 3, 4).flatten(1, 2)


def _views(x, *sizes):
    """Views like those of a shuffle that are none."""
    return x.view(x.size(0), 2, 3, *sizes).transpose(1, 2).reshape(x.size(0), -1, *reversed(sizes))


@pytest.mark.parametrize("write", [shuffled, _permuted])
def test_shuffles_of_channels_are_found(write):
    class Shuffle(nn.Module):
        def forward(self, x):
            return write(torch.cat((x, x + 1), 1), 3)

    folded = fold(Shuffle())
    assert any(isinstance(m, nn.ChannelShuffle) and m.groups == 3 for m in folded.modules())
    assert torch.equal(folded(images()), Shuffle()(images()))


def test_other_views_are_no_shuffles():
    class Views(nn.Module):
        def forward(self, x):
            return _views(torch.cat((x, x + 1), 1), 16, 8)

    folded = fold(Views())
    assert not any(isinstance(m, nn.ChannelShuffle) for m in folded.modules())


def test_other_dimensions_are_not_squeezed():
    class Squeezed(nn.Module):
        def forward(self, x):
            return x.squeeze(1).squeeze(2), x.unsqueeze(1).unsqueeze(3), x.mean(1).squeeze(-1)

    folded = fold(Squeezed())
    assert not list(folded.named_modules())[1:]


def test_linear_functions_of_a_module_with_other_parts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4))
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return F.linear(self.norm(F.linear(x, self.first)), self.second)

    model = trained(nn.Sequential(nn.Flatten(), Two()))
    x = torch.randn(5, 3)
    torch.testing.assert_close(fold(model)(x), model(x))


def test_what_drops_values_in_training_is_gone():
    network = nn.Sequential(nn.Dropout3d(), nn.AlphaDropout(), torchvision.ops.StochasticDepth(0.5, "row"))
    assert {node.op for node in fold(network).graph.nodes} == {"placeholder", "output"}


def test_linear_layers_as_functions_are_modules():
    model = timm.layers.Linear(3, 4)
    folded = fold(nn.Sequential(nn.Flatten(), model))
    assert isinstance(folded.get_submodule("1"), nn.Linear)
    x = torch.randn(2, 3)
    assert torch.equal(folded(x), model(x))


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
