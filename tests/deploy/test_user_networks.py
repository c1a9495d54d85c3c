"""Networks as users write them: converted, they compute what they did, and all ways to run them agree bit for bit."""

import pytest
import timm
import torch
import torch.nn.functional as F
from deploy.exactness import assert_exact, quantized_for, requantize_by
from quant.networks import trained
from timm.layers import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import set_quantizing
from oaq_repro.quant.overflow import OverflowMeter


class Calls(nn.Module):
    """A network from modules and a forward pass that is given as a function."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def conv(inputs=4, outputs=4, kernel=3, **fields):
    return nn.Conv2d(inputs, outputs, kernel, **fields)


def pixels(count=3, size=(13, 10), channels=3, seed=1):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


PADDED = {
    "Conv2dSame": nn.Sequential(Conv2dSame(3, 5, 3, stride=2), nn.ReLU(), Conv2dSame(5, 4, 5, stride=2, dilation=2)),
    "depthwise Conv2dSame": nn.Sequential(conv(3, 6), Conv2dSame(6, 6, 4, stride=3, groups=6)),
    "padding=same": nn.Sequential(conv(3, 4, 4, padding="same"), nn.ReLU6(), conv(4, 4, (2, 3), padding="same")),
    "ZeroPad2d": nn.Sequential(nn.ZeroPad2d((0, 1, 2, 3)), conv(3, 4, padding=1), nn.ReLU()),
    "pads in a row": nn.Sequential(nn.ZeroPad2d(1), nn.ConstantPad2d((1, 0, 0, 0), 0.0), conv(3, 4, stride=2)),
    "F.pad": Calls(lambda self, x: self.a(F.pad(x, (1, 0))) + self.b(F.pad(x, [0, 1, 0, 0])), a=conv(3), b=conv(3)),
    "a pad that two read": Calls(
        lambda self, x: [self.a(y) + self.b(y) for y in [F.pad(x, (1, 2, 0, 1))]][0], a=conv(3), b=conv(3)
    ),
    "AvgPool2dSame": nn.Sequential(conv(3), AvgPool2dSame(3, stride=2), conv(4, 4, 1)),
    "pad and AvgPool2d": nn.Sequential(conv(3), nn.ZeroPad2d((0, 1, 0, 1)), nn.AvgPool2d(2)),
    "AvgPool2d that does not count": nn.Sequential(conv(3), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "AvgPool2d with a ceil_mode of no effect": nn.Sequential(conv(3, 4, 2), nn.AvgPool2d(3, ceil_mode=True)),
    "MaxPool2dSame": nn.Sequential(conv(3), MaxPool2dSame(3, stride=2), conv(4, 4, 1)),
    "pad and MaxPool2d after ReLU": nn.Sequential(conv(3), nn.ReLU(), nn.ZeroPad2d((0, 1, 1, 0)), nn.MaxPool2d(3, 2)),
}


def assert_same_function(model, network, images):
    """In calibration mode, which computes with real numbers."""
    set_quantizing(model, False)
    found, expected = model(images), network(images)
    set_quantizing(model, True)
    found, expected = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_padding_that_is_the_same_at_both_ends_is_the_lighter_one():
    model = quantized_for(trained(nn.Sequential(nn.ZeroPad2d(1), conv(3))), pixels())
    assert model.get_submodule("1").geometry.padding == (1, 1, 1, 1)


def up(inputs=4, outputs=4, kernel=3, **fields):
    return nn.ConvTranspose2d(inputs, outputs, kernel, **fields)


LARGER = {
    "U-Net's": nn.Sequential(conv(3), up(kernel=2, stride=2), nn.BatchNorm2d(4), nn.ReLU(), conv(4)),
    "DCGAN's": nn.Sequential(conv(3), up(4, 6, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
    "in groups": nn.Sequential(conv(3), up(4, 6, 3, groups=2, stride=(2, 1)), nn.BatchNorm2d(6), nn.Hardswish()),
    "depthwise": nn.Sequential(conv(3), up(groups=4, stride=3, padding=1, output_padding=2), nn.ReLU(), conv(4)),
    "dilated": nn.Sequential(up(3, 4, (3, 2), dilation=(2, 3), stride=2, padding=2, output_padding=1), conv(4)),
    "without a stride": nn.Sequential(conv(3), up(4, 5, 5, padding=3), nn.ReLU()),
    "a stride beyond the kernel": nn.Sequential(conv(3), up(4, 5, 2, stride=3), nn.ReLU()),
    "functional transposed": Calls(
        lambda self, x: F.conv_transpose2d(self.a(x), self.b.weight, self.b.bias, stride=2), a=conv(3), b=up()
    ),
    "twice": Calls(lambda self, x: self.b(self.b(self.a(x))), a=conv(3), b=up(stride=2)),
    "PixelShuffle": nn.Sequential(conv(3, 12), nn.PixelShuffle(2), nn.ReLU(), conv(3)),
    "functional PixelShuffle": Calls(lambda self, x: F.pixel_shuffle(F.relu(self.a(x)), 3), a=conv(3, 9)),
}


def test_accumulators_of_transposed_convolutions_are_counted_in_training_as_in_the_reference():
    network = trained(nn.Sequential(conv(3), nn.ReLU(), up(4, 6, 4, stride=(2, 3), padding=1, output_padding=1)))
    for name in ("int16", "int16_lanes8", "int16_block", "pair_saturating"):
        exact = {"first": Override("0", accumulator=NAMED["int32"], reason="not looked at")}
        model = quantize_network(network, Int8(), QuantizationConfig(NAMED[name], overrides=exact), (3, 13, 10))
        calibrate(model, [pixels()])
        layer, images = model.eval().get_submodule("2"), pixels(seed=3)
        layer.meter = OverflowMeter()
        with torch.no_grad():
            model(images)
        found = Reference(lower(model)).run(images.numpy())
        assert sum(found.events["2"]) > 0
        assert layer.meter.per_image().tolist() == found.events["2"].tolist()
        assert layer.meter.outputs == 3 * found.outputs_per_image["2"]
        assert layer.meter.peak == pytest.approx(found.peak["2"])


BROADCAST = {
    "a mask": Calls(
        lambda self, x: [y * torch.sigmoid(self.b(y)) for y in [F.relu(self.a(x))]][0], a=conv(3), b=conv(4, 1, 1)
    ),
    "a mask first": Calls(
        lambda self, x: [self.b(y).sigmoid().mul(y) for y in [F.relu(self.a(x))]][0], a=conv(3), b=conv(4, 1, 1)
    ),
    "a sum": Calls(lambda self, x: self.a(x) + self.b(x), a=conv(3), b=conv(3, 1)),
    "a sum in place": Calls(lambda self, x: self.a(x).add_(self.b(x)).add(self.a(x)), a=conv(3), b=conv(3, 1)),
    "numbers": Calls(lambda self, x: 0.5 * self.b(0.25 * self.a(x)), a=conv(3), b=conv()),
}


def test_a_transposed_convolution_to_a_given_size_is_an_error():
    network = Calls(lambda self, x: self.b(self.a(x), output_size=[24, 18]), a=conv(3), b=up(stride=2))
    with pytest.raises(InputError, match=r"found an output_size.*this is b \(ConvTranspose2d\)"):
        quantize_network(network, Int8(), QuantizationConfig(NAMED["int32"]))


SIMILAR = {
    "one pool twice": Calls(
        lambda self, x: self.pool(F.relu(self.b(self.pool(F.relu(self.a(x)))))),
        a=conv(3), b=conv(4), pool=nn.MaxPool2d(2, 1),
    ),
    "one ReLU for all": Calls(
        lambda self, x: self.act(self.b(self.act(self.a(x))) + self.act(self.c(x))),
        a=conv(3, padding=1), b=conv(4, 4, 1), c=conv(3, 4, padding=1), act=nn.ReLU(),
    ),
    "a head at two scales": Calls(
        lambda self, x: [(self.head(y), self.head(self.pool(y))) for y in [self.a(x)]][0],
        a=conv(3), head=nn.Sequential(conv(4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)), pool=nn.AvgPool2d(2, 1),
    ),
    "one convolution, two batch norms": Calls(
        lambda self, x: self.one(self.a(x)) + self.two(self.a(x)),
        a=conv(3), one=nn.BatchNorm2d(4), two=nn.BatchNorm2d(4),
    ),
    "functional": Calls(
        lambda self, x: F.linear(F.conv2d(x, self.a.weight, self.a.bias, 2).mean((2, 3)), self.b.weight),
        a=conv(3), b=nn.Linear(4, 3),
    ),
}  # fmt: skip


def test_shared_weights_stay_shared_and_learn_together():
    network = trained(SIMILAR["a head at two scales"])
    model = quantized_for(network, pixels())
    graph = assert_exact(model, pixels())
    first, second = model.get_submodule("head.0"), model.get_submodule("head.0_1")
    assert first.weight is second.weight and first.bias is second.bias and first.output is not second.output
    assert [layer.name for layer in graph.layers()] == ["a", "head.0", "head.3", "head.0_1", "head.3_1"]
    sum(output.square().sum() for output in model.train()(pixels())).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert first.weight is second.weight
    assert_exact(model.eval(), pixels())


def test_an_override_is_for_all_calls_of_a_module():
    network = trained(SIMILAR["a head at two scales"])
    model = quantized_for(network, pixels(), overrides={"mine": Override("head.3", weight_bits=4)})
    bits = [model.get_submodule(name).weight_quantizer.bits for name in ("head.0", "head.3", "head.3_1")]
    assert bits == [8, 4, 4]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0", "tf_mobilenetv3_small_100"])
def test_same_padding_of_timm_follows_the_size(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5, pad_type="same").eval()
    for size in ((33, 32), (32, 35)):
        images = pixels(2, size)
        model = quantized_for(network, images)
        assert_same_function(model, network, images)
        assert_exact(model, images, isas=[None], modes=["certified"], reference=False)


def resized(**fields):
    return Calls(lambda self, x: self.b(F.interpolate(self.a(x), **fields)), a=conv(3), b=conv(4))


RESIZED = {
    "nearest by 2": resized(scale_factor=2),
    "nearest by 2 and 3": resized(scale_factor=(2.0, 3.0)),
    "nearest to a size": resized(size=(7, 15)),
    "nearest-exact": resized(scale_factor=2, mode="nearest-exact"),
    "nearest to a half": nn.Sequential(conv(3, 4, (2, 3)), nn.Upsample(scale_factor=0.5), conv(4)),
    "bilinear by 2": resized(scale_factor=2, mode="bilinear", align_corners=False),
    "bilinear by 2 with corners": resized(scale_factor=2, mode="bilinear", align_corners=True),
    "Upsample": nn.Sequential(conv(3), nn.Upsample(scale_factor=3, mode="bilinear")),
    "bilinear to a size": resized(size=[9, 21], mode="bilinear"),
    "UpsamplingNearest2d": nn.Sequential(conv(3), nn.UpsamplingNearest2d(scale_factor=3)),
    "UpsamplingBilinear2d": nn.Sequential(conv(3), nn.UpsamplingBilinear2d(size=20)),
    "nearest to sizes that are computed": Calls(
        lambda self, x: [F.interpolate(self.b(y), size=(y.shape[2], y.size(3))) + y for y in [self.a(x)]][0],
        a=conv(3), b=conv(4, 4, 3, stride=2),
    ),
    "nearest to the size of another": Calls(
        lambda self, x: [y + F.interpolate(self.b(y), size=y.shape[-2:]) for y in [self.a(x)]][0],
        a=conv(3), b=conv(4, 4, 3, stride=2),
    ),
}  # fmt: skip


def head(flat):
    """A classifier whose pooled features [N, 4, 1, 1] become [N, 4] as `flat` says."""
    return Calls(lambda self, x: self.b(flat(self.pool(self.a(x)))), a=conv(3), pool=nn.AdaptiveAvgPool2d(1),
                 b=nn.Linear(4, 3))  # fmt: skip


ORDINARY = {
    "adaptive pooling to a divisor": nn.Sequential(conv(3, 4, (4, 3)), nn.AdaptiveAvgPool2d((5, 2)), conv(4, 4, 2)),
    "adaptive pooling to None": nn.Sequential(conv(3, 4, (4, 3)), nn.AdaptiveAvgPool2d((2, None)), conv(4, 4, 2)),
    "adaptive pooling to the same size": nn.Sequential(conv(3, 4, (7, 4)), nn.AdaptiveAvgPool2d(7), conv(4)),
    "adaptive maximum": nn.Sequential(conv(3, 4, (4, 3)), nn.AdaptiveMaxPool2d(2), nn.AdaptiveMaxPool2d(1)),
    "functional adaptive": Calls(lambda self, x: F.adaptive_avg_pool2d(self.a(x), (11, 4)), a=conv(3)),
    "squeeze": head(lambda x: x.squeeze()),
    "squeeze of both": head(lambda x: torch.squeeze(x, (2, 3))),
    "squeeze one by one": head(lambda x: x.squeeze(-1).squeeze(-1)),
    "squeeze the other way": head(lambda x: x.squeeze(2).squeeze(dim=2)),
    "view": head(lambda x: x.view(x.size(0), -1)),
    "view of a tuple": head(lambda x: x.view((x.shape[0], x.shape[1]))),
    "reshape": head(lambda x: torch.reshape(x, (-1, 4))),
    "index": head(lambda x: x[:, :, 0, 0]),
    "view of an image": Calls(lambda self, x: self.b(self.a(x).view(-1, 4 * 11 * 8)), a=conv(3), b=nn.Linear(352, 3)),
    "cat of the channels from behind": Calls(
        lambda self, x: torch.cat([self.a(x), self.b(x)], dim=-3), a=conv(3), b=conv(3)
    ),
    "cat of features": Calls(
        lambda self, x: torch.cat([self.a(x).mean((2, 3)), self.b(x).mean((-1, -2))], -1), a=conv(3), b=conv(3)
    ),
    "an `if` on a size": Calls(lambda self, x: self.a(x) if x.shape[2] > 7 else self.b(x), a=conv(3), b=conv(3)),
}  # fmt: skip


class Normalized(nn.Module):
    """A network that takes raw images."""

    def __init__(self, how, behind=None):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.std = nn.Parameter(torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self.how, self.conv = how, behind or conv(3, padding=1)

    def forward(self, x):
        return self.conv(self.how(self, x))


CONSTANTS = {
    "(x - mean) / std": Normalized(lambda self, x: (x - self.mean) / self.std),
    "with numbers": Normalized(lambda self, x: 2 * (x - self.mean) * self.std + 1),
    "the other way": Normalized(lambda self, x: torch.add(self.mean - x, self.mean)),
    "behind a convolution": Normalized(lambda self, x: self.std * self.conv(x - self.mean) + self.mean, conv(3, 3)),
}


def scaled(layer, how):
    """A layer whose weights are computed anew for every call; trained for a step, so that they are not the old ones."""
    layer = how(layer)
    nn.Sequential(layer).train()(torch.ones(1, *([3, 9, 9] if isinstance(layer, nn.Conv2d) else [4])))
    return layer


def block(inputs, outputs, kernel=1, stride=1):
    layers = [conv(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.SiLU())


class Yolo(nn.Module):
    """The parts of YOLOv5: SiLU, CSP block, SPPF, a neck that goes up and down, raw maps of two scales."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = block(3, 4, 3), block(4, 8, 3, 2)
        self.left, self.right, self.inner, self.join = block(8, 4), block(8, 4), block(4, 4, 3), block(8, 8)
        self.before, self.pool, self.after = block(8, 4), nn.MaxPool2d(5, 1, 2), block(16, 8)
        self.up, self.fine, self.coarse = nn.Upsample(scale_factor=2), block(12, 4), block(12, 8)
        self.back = block(4, 4, 3, 2)
        self.heads = nn.ModuleList([conv(4, 6, 1), conv(8, 6, 1)])

    def forward(self, x):
        first = self.stem(x)
        x = self.down(first)
        left = self.left(x)
        x = self.join(torch.cat((left + self.inner(left), self.right(x)), 1))
        x = self.before(x)
        y = self.pool(x)
        z = self.pool(y)
        x = self.after(torch.cat([x, y, z, self.pool(z)], 1))
        fine = self.fine(torch.cat([self.up(x), first], 1))
        coarse = self.coarse(torch.cat([self.back(fine), x], 1))
        return [head(y) for head, y in zip(self.heads, (fine, coarse), strict=True)]


class Tutorial(nn.Module):
    """PyTorch's own, for CIFAR-10, for smaller images: one pool for both convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.conv2 = conv(3, 6, 3), nn.MaxPool2d(2, 2), conv(6, 16, 3)
        self.fc1, self.fc2 = nn.Linear(16 * 2 * 1, 20), nn.Linear(20, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(F.pad(x, (0, 0, 1, 1)))))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


WHOLE = {
    "YOLO": nn.Sequential(nn.Upsample(size=(12, 16)), Yolo()),
    "CIFAR-10 tutorial": Tutorial(),
    "clamp(0, 6)": Calls(lambda self, x: self.b(torch.clamp(self.a(x), 0, 6)), a=conv(3), b=conv()),
    "spectral norm": nn.Sequential(scaled(conv(3), nn.utils.spectral_norm), nn.ReLU(), conv()),
    "spectral norm as a parametrization": nn.Sequential(
        scaled(conv(3), nn.utils.parametrizations.spectral_norm), nn.ReLU(), conv()
    ),
    "weight norm": nn.Sequential(
        scaled(conv(3), nn.utils.parametrizations.weight_norm), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        scaled(nn.Linear(4, 3), nn.utils.weight_norm),
    ),
}  # fmt: skip


NETWORKS = WHOLE | PADDED | LARGER | BROADCAST | SIMILAR | RESIZED | ORDINARY | CONSTANTS


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_function_and_the_same_bits(name):
    network, images = trained(NETWORKS[name]), pixels()
    model = quantized_for(network, images)
    assert_same_function(model, network, images)
    assert_exact(model, pixels(seed=2))
    for requantization in ("dyadic", "fixed16"):  # without `fast`, as sums may overflow 16 bits
        requantize_by(model, requantization)
        assert_exact(model, pixels(seed=2), isas=[None], modes=["certified"], reference=False)


@pytest.mark.parametrize("name", ["(x - mean) / std", "with numbers", "the other way"])
def test_constants_per_channel_are_one_convolution(name):
    graph = lower(quantized_for(trained(CONSTANTS[name]), pixels()))
    assert [layer.depthwise for layer in graph.layers()] == [True, False]


def test_weights_that_are_computed_need_no_image():
    """Where no size is given, nothing is run before the weights are read."""
    for name in ("spectral norm", "weight norm"):
        network = WHOLE[name].eval()
        model = quantize_network(network, Int8(), QuantizationConfig(NAMED["int32"]))
        assert_same_function(model, network, pixels())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.mixer = conv(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.mixer(y, y, y)[0]


IMPOSSIBLE = {
    "ConvNeXt": (
        lambda: timm.create_model("convnext_atto", num_classes=4),
        r'this is stem\.1 \(LayerNorm2d\).*match: "stem\.1"',
    ),
    "attention": (lambda: nn.Sequential(Attention()), r'this is 0 \(Attention\).*match: "0", skip: true'),
    "reflection": (
        lambda: nn.Sequential(nn.Sequential(nn.ReflectionPad2d(1), conv(3))),
        r"0\.0: found ReflectionPad2d, which has no",
    ),
    "softmax": (lambda: nn.Sequential(conv(3), nn.Softmax(1)), r"1: found Softmax, which has no quantized form"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_is_impossible_names_the_first_module_and_the_override_that_skips_it(name):
    make, message = IMPOSSIBLE[name]
    with pytest.raises(InputError, match=message):
        quantize_network(make(), Int8(), QuantizationConfig(NAMED["int32"]), (3, 32, 32))
