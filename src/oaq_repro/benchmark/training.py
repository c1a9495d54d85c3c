"""What quantization-aware training costs: one optimizer step of each method, beside float and brevitas' A2Q.

All train the same network (MobileNetV1 for small images) on the same batch with the same optimizer on one thread.
OAQ counts overflow and moves its factors every `INTERVAL` steps, as in training, so its step is a mean over that many.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark import report
from oaq_repro.benchmark.machine import describe
from oaq_repro.benchmark.timing import Row, Variant, alternate, rows
from oaq_repro.files import write_atomic
from oaq_repro.methods.a2q import A2Q
from oaq_repro.methods.base import Method
from oaq_repro.methods.controller import BatchOverflow
from oaq_repro.methods.int8 import Int8
from oaq_repro.methods.oaq import OAQ, OAQController
from oaq_repro.models import classification
from oaq_repro.quant.calibration.calibrate import calibrate, counting
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork

SHAPE, CLASSES, BATCH, WIDTH = (3, 32, 32), 10, 32, 0.5
INTERVAL = 50
BASE = "int8"
NAME = f"MobileNetV1, width {WIDTH}, {BATCH} images of {SHAPE[1]}x{SHAPE[2]}"

Step = Callable[[int], None]


def run(out: Path, rounds: int) -> list[Path]:
    """Measure `rounds` rounds and write training.json and training.md into `out`; their paths."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, *SHAPE), torch.randint(0, CLASSES, (BATCH,))
    makers: dict[str, Callable[[], Step]] = {
        "float": lambda: _step(_network().train(), images, labels),
        "int8": lambda: _quantized(Int8(), images, labels),
        "oaq": lambda: _quantized(OAQ(interval=INTERVAL), images, labels),
        "a2q": lambda: _quantized(A2Q(), images, labels),
        "brevitas a2q": lambda: _step(_brevitas(), images, labels),
    }
    variants, missing = [], []
    for name, make in makers.items():
        try:
            variants.append(Variant(name, _timed(make())))
        except ImportError as error:
            missing.append(Row(NAME, 1, name, note=f"not timed: {error}"))
    with tqdm(total=rounds, desc="training", unit="round") as bar:
        times = alternate(variants, rounds, warm_ups=1, progress=bar.update)
    machine = describe("native")
    found = [*rows(NAME, 1, times, 0, machine["clock_hz"], base=BASE), *missing]
    return [
        report.write_json(out / "training.json", machine, found),
        write_atomic(out / "training.md", _markdown(machine, found)),
    ]


def _network() -> nn.Module:
    torch.manual_seed(0)
    return classification.build(CLASSES, SHAPE, arch="mobilenetv1", width=WIDTH, stem="small").dense


def _step(model: nn.Module, images: Tensor, labels: Tensor, penalty: Callable[[], Any] = lambda: 0.0) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(index: int) -> None:
        optimizer.zero_grad()
        (F.cross_entropy(model(images), labels) + penalty()).backward()
        optimizer.step()

    return step


def _quantized(method: Method, images: Tensor, labels: Tensor) -> Step:
    model = quantize_network(_network(), method, QuantizationConfig(NAMED["int16"]))
    calibrate(model, [images])
    method.start(model)
    model.train()
    step = _step(model, images, labels, lambda: method.penalty(model))
    return _counted(method, model, step) if isinstance(method, OAQ) else step


def _counted(method: OAQ, model: QuantizedNetwork, step: Step) -> Step:
    """With the controller's work in every `INTERVAL`th step."""
    controller = OAQController(method)

    def counted(index: int) -> None:
        if index % INTERVAL:
            step(index)
            return
        with counting(model) as meters:
            step(index)
        seen = {n: BatchOverflow(m.channel_events, m.peaks) for n, m in meters.items()}  # type: ignore[arg-type]
        controller.update(model, seen, BATCH, 0.5)

    return counted


def _brevitas() -> nn.Module:
    """The float network with all convolutions and linear layers as brevitas' A2Q layers; ImportError without it."""
    from brevitas import nn as quantized
    from brevitas import quant

    network = _network().train()
    for name, module in list(network.named_modules()):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        common = {
            "bias": module.bias is not None,
            "input_quant": quant.Uint8ActPerTensorFloat,
            "weight_quant": quant.Int8AccumulatorAwareWeightQuant,
            "weight_accumulator_bit_width": 16,
        }
        if isinstance(module, nn.Linear):
            layer = quantized.QuantLinear(module.in_features, module.out_features, **common)
        else:
            layer = quantized.QuantConv2d(
                module.in_channels, module.out_channels, module.kernel_size, stride=module.stride,
                padding=module.padding, dilation=module.dilation, groups=module.groups, **common,
            )  # fmt: skip
        layer.weight.data.copy_(module.weight.data)
        network.set_submodule(name, layer)
    return network


def _timed(step: Step) -> Callable[[], float]:
    """Mean seconds of a step over one interval."""

    def measure() -> float:
        start = time.perf_counter()
        for index in range(INTERVAL):
            step(index)
        return (time.perf_counter() - start) / INTERVAL

    return measure


def _markdown(machine: dict[str, Any], found: list[Row]) -> str:
    lines = ["# Training steps", "", *report.head(machine), ""]
    lines += [f"{NAME}; one thread. Time / {BASE}: median over rounds of the ratio within a round.", ""]
    lines += [
        f"| method | median ms | 10 % ms | time / {BASE} (quartiles) | note |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in found:
        if row.median_ms is None or row.ratio_quartiles is None:
            lines.append(f"| {row.variant} | - | - | - | {row.note} |")
            continue
        low, high = row.ratio_quartiles
        ratio = f"{row.ratio_to_fast:.2f} ({low:.2f}-{high:.2f})"
        lines.append(f"| {row.variant} | {row.median_ms:.1f} | {row.p10_ms:.1f} | {ratio} | {row.note} |")
    return "\n".join(lines) + "\n"
