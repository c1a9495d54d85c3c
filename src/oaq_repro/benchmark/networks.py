"""Integer graphs to time: the architectures of the paper at full size, without training. Our choice.

Latency does not depend on what a network has learned, but the longest certified block depends on its ranges. Weights
are the architectures' own random initialization, images smooth noise; ranges are those that calibration and settling
give (`oaq`: no 16-bit sum overflows on the images it saw; `fixed16`: that with fixed16 requantization, nothing but 16
bits), or plain 8-bit ones (`int8`), which every runtime gets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.integer.graph import Graph
from oaq_repro.methods.int8 import Int8
from oaq_repro.models import classification, mmseg_deeplab, ssd, timm_classifier
from oaq_repro.models.backbones import Arch
from oaq_repro.models.network import Network
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.requantization import Requantization

Ranges = Literal["int8", "oaq", "fixed16"]
BATCHES, BATCH_SIZE, SEED = 4, 4, 0
PASSES = 60  # of settling; deep networks with random weights take more than trained ones


@dataclass(frozen=True)
class Architecture:
    """A network to time: how it is built, and its input [C, H, W]."""

    build: Callable[[], Network]
    input_shape: tuple[int, int, int]


IMAGE = (3, 224, 224)


def _classifier(arch: Arch) -> Architecture:
    return Architecture(lambda: classification.build(1000, IMAGE, arch=arch), IMAGE)


def _of_timm(arch: str) -> Architecture:
    return Architecture(lambda: timm_classifier.build(1000, IMAGE, arch=arch), IMAGE)


ARCHITECTURES: dict[str, Architecture] = {
    "mobilenetv1": _classifier("mobilenetv1"),
    "mobilenetv2": _classifier("mobilenetv2"),
    "resnet18": _classifier("resnet18"),
    "resnet50": _classifier("resnet50"),
    "mobilenetv3_large": _of_timm("mobilenetv3_large_100"),
    "efficientnet_lite0": _of_timm("efficientnet_lite0"),
    "ssdlite300": Architecture(lambda: ssd.build(20, (3, 300, 300)), (3, 300, 300)),
    "deeplabv3": Architecture(lambda: mmseg_deeplab.build(21, (3, 224, 224)), (3, 224, 224)),
}


@torch.no_grad()
def float_network(name: str) -> nn.Module:
    """The dense part in float32, evaluation mode, random weights (always the same).

    Batch norms take the statistics of the images, and scale by 1 where the initialization would silence a branch.
    """
    torch.manual_seed(SEED)
    dense = ARCHITECTURES[name].build().dense.train()
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1.0)
            module.momentum = None  # a plain mean over batches
    for seed in range(BATCHES):
        dense(images(name, seed=seed))
    return dense.eval()


def images(name: str, seed: int = SEED) -> Tensor:
    """Smooth noise float32 [BATCH_SIZE, C, H, W] of mean 0 and about unit variance, like normalized photographs."""
    return smooth_noise(BATCH_SIZE, ARCHITECTURES[name].input_shape, seed)


def smooth_noise(count: int, shape: tuple[int, int, int], seed: int) -> Tensor:
    """float32 [count, C, H, W], as `images` says."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, channels, height, width)
    for size in (4, 16, 64):
        noise = torch.randn(count, channels, size, size, generator=generator)
        total += nn.functional.interpolate(noise, (height, width), mode="bilinear", align_corners=False)
    return (total / total.std()).contiguous()


def quantized_network(name: str, ranges: Ranges) -> QuantizedNetwork:
    """Calibrated on the images, and settled for 16-bit accumulators unless `ranges` is `int8`."""
    narrow = NAMED["int32"] if ranges == "int8" else NAMED["int16"]
    ends = {
        role: Override(match=f"@{role}", accumulator=NAMED["int32"], reason="as in training")
        for role in ("first", "last")
    }
    requantization: Requantization = "fixed16" if ranges == "fixed16" else "float32"
    config = QuantizationConfig(narrow, requantization=requantization, overrides=ends)
    quantized = quantize_network(float_network(name), Int8(), config)
    batches = [images(name, seed=seed) for seed in range(BATCHES)]
    calibrate(quantized, batches)
    if ranges != "int8":
        settle(quantized, lambda: batches, SettleConfig(max_passes=PASSES))
    freeze(quantized)
    return quantized.eval()


def integer_graph(name: str, ranges: Ranges, folder: Path) -> Graph:
    """The integer graph, made once and kept in `folder`."""
    path = folder / f"{name}_{ranges}.npz"
    if not path.exists():
        graph = lower(quantized_network(name, ranges))
        graph.save(path)
    return Graph.load(path)
