"""Small float networks with the shapes that matter: depthwise, residual, concatenation, pooling, resize."""

import torch
import torch.nn.functional as F
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.methods.int8 import Int8
from oaq_repro.quant.calibration.calibrate import calibrate
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network


def unit(inputs, outputs, kernel=1, stride=1, groups=1, act=nn.ReLU6):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


class Classifier(nn.Module):
    """Inverted residual, max pooling, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8, 3, 2, act=nn.ReLU)
        self.expand, self.depthwise, self.project = unit(8, 16), unit(16, 16, 3, 1, 16), unit(16, 8, act=None)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.depthwise(self.expand(x)))
        x = self.pool(x).mean((2, 3))
        return self.head(self.drop(x))


class Pyramid(nn.Module):
    """Two outputs, concatenation, average pooling, a branch resized to another's size."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8, 3, 2)
        self.left, self.right = unit(8, 6, act=None), unit(8, 4, 3)
        self.pooled, self.pool = unit(8, 4), nn.AdaptiveAvgPool2d(1)
        self.smaller = nn.AvgPool2d(2)
        self.fuse = unit(14, 8)
        self.first, self.second = nn.Conv2d(8, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        image = F.interpolate(self.pooled(self.pool(x)), size=x.shape[2:], mode="bilinear", align_corners=False)
        x = self.fuse(torch.cat([self.left(x), F.relu(self.right(x)), image], dim=1))
        return self.first(x), self.second(self.smaller(x))


class Larger(nn.Module):
    """Transposed convolutions, one of them depthwise and dilated, whose taps meet in different places."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8, 3, 2, act=nn.ReLU)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.wide = nn.ConvTranspose2d(6, 6, 4, stride=3, dilation=(2, 1), groups=6)
        self.shuffle, self.head = nn.PixelShuffle(2), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        return self.shuffle(self.head(self.wide(self.up(self.stem(x)))))


def shuffled(x, groups):
    """As torchvision's ShuffleNet writes it."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


class Gated(nn.Module):
    """Squeeze-and-excitation, functions of one number, batch norms that stand alone, parts of the channels."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8, 3, 2, act=nn.Hardswish)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.act, self.gate = nn.ReLU(), nn.Hardsigmoid()
        self.identity = nn.BatchNorm2d(8)
        self.conv = unit(8, 8, act=None)
        self.branch = unit(4, 4, 3, act=nn.SiLU)
        self.slope = nn.PReLU()
        self.before, self.head = nn.BatchNorm2d(7), nn.Linear(7, 5)

    def forward(self, x):
        x = self.stem(x)
        x = self.gate(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))) * x
        x = F.relu(self.identity(x) + self.conv(x))
        a, b = x.chunk(2, dim=1)
        x = shuffled(torch.cat((a, self.branch(b)), dim=1), 2)
        x = self.before(self.slope(x[:, :7, :, :]) / 2 + 0.1)
        return self.head(F.leaky_relu(x.mean((2, 3)), 0.1))


def trained(network, seed=0):
    """The network with weights and statistics that are not those of initialization."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return network.eval()


def images(count=4, size=16, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def quantized(network, method=None, accumulator="int16", batches=None, **config):
    """The network quantized and calibrated, in evaluation mode."""
    model = quantize_network(network, method or Int8(), QuantizationConfig(NAMED[accumulator], **config))
    calibrate(model, batches or [images()])
    return model.eval()
