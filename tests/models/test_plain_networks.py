"""Networks in a row: LeNet-300-100, other perceptrons, VGG-16; and batch norm without scale and shift."""

import pytest
import torch
from composing import built
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.trace import LAYERS, fold


def dense_of(name, shape, *overrides, classes=10):
    return built("model", f"model={name}", *overrides, num_classes=classes, input_shape=shape).dense


def layers_of(network):
    return [module for module in network.modules() if isinstance(module, LAYERS)]


def test_lenet_300_has_its_layers_and_as_many_weights_as_published():
    network = dense_of("lenet300", (1, 28, 28))
    assert [(m.in_features, m.out_features) for m in layers_of(network)] == [(784, 300), (300, 100), (100, 10)]
    plain = sum(p.numel() for m in layers_of(network) for p in m.parameters())
    assert plain == 266_610  # LeCun et al. 1998 and all who prune it
    assert sum(p.numel() for p in network.parameters()) == plain + 2 * (300 + 100)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_jet_classifier_by_its_hidden_units():
    network = dense_of("mlp_small", (1, 4, 4), "model.hidden=[64,32,32]", classes=5)
    assert sum(m.weight.numel() for m in layers_of(network)) == 16 * 64 + 64 * 32 + 32 * 32 + 32 * 5


def test_vgg_16_has_thirteen_convolutions_and_ends_at_one_pixel():
    network = dense_of("vgg16_cifar", (3, 32, 32), classes=100).eval()
    convolutions = [m.weight.shape for m in layers_of(network) if isinstance(m, nn.Conv2d)]
    channels = (64, 64, 128, 128, 256, 256, 256, *(512,) * 6)
    assert [tuple(shape[:2]) for shape in convolutions] == list(zip(channels, (3, *channels[:-1]), strict=True))
    assert [m.weight.shape[0] for m in layers_of(network) if isinstance(m, nn.Linear)] == [512, 512, 100]
    sizes = []
    network.get_submodule("pool5").register_forward_hook(lambda module, x, y: sizes.append(tuple(y.shape[2:])))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 100)
    assert sizes == [(1, 1)]
    narrow = dense_of("vgg16_cifar", (3, 64, 64), "model.width=0.125").eval()
    with torch.no_grad():
        assert narrow(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
    with pytest.raises(InputError, match="at least 32x32 pixels for model vgg"):
        dense_of("vgg16_cifar", (3, 16, 16))


@pytest.mark.parametrize(
    "name, shape, extra",
    [
        ("resnet18_small", (1, 16, 16), []),
        ("mobilenetv1_small", (1, 16, 16), []),
        ("mlp_small", (1, 8, 8), []),
        ("vgg16_cifar", (3, 32, 32), ["model.width=0.0625"]),
    ],
)
def test_without_affine_batch_norm_learns_nothing_and_still_folds(name, shape, extra):
    torch.manual_seed(0)
    network = dense_of(name, shape, "model.affine=false", *extra)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(m.weight is None and m.bias is None for m in norms)
    own = {id(p) for m in layers_of(network) for p in m.parameters()}
    assert {id(p) for p in network.parameters()} == own
    x = torch.randn(8, *shape)
    network.train()(x)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(fold(network, shape)(x), network(x), rtol=1e-4, atol=1e-4)


def test_published_weights_need_scale_and_shift():
    with pytest.raises(InputError, match="model.affine: found false with weights that have scale and shift"):
        dense_of("resnet18", (3, 64, 64), "model.affine=false", "model.pretrained=true")
