"""The integer engine as a torch module, so that a task evaluates it like any network, and is checked on the way."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import Mode
from oaq_repro.integer.graph import Graph
from oaq_repro.quant.calibrate import counting
from oaq_repro.quant.network import QuantizedNetwork


@dataclass
class CheckReport:
    """What the engine did on the images it has seen.

    events: per layer, one count per image, of the sums that the simulation makes, which are exact. outputs: per layer,
    outputs checked over all images. mismatches: indices of images without any event whose result differs from the
    simulation (must stay empty).
    """

    images: int = 0
    events: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    mismatches: list[int] = field(default_factory=list)

    def totals(self) -> dict[str, int]:
        """Events per layer over all images."""
        return {name: sum(counts) for name, counts in self.events.items()}

    def affected(self) -> list[int]:
        """Indices of images with at least one event."""
        return [i for i in range(self.images) if any(counts[i] for counts in self.events.values())]


class CheckedEngine(nn.Module):
    """Runs the engine and compares every image with the simulated network, bit for bit.

    In the mode `fast` the engine computes in the graph's own accumulators and overflow is counted; in the others its
    results are those of 32 bits, and every image has to equal the simulation.
    """

    def __init__(self, graph: Graph, simulated: QuantizedNetwork, mode: Mode, threads: int) -> None:
        super().__init__()
        self.graph, self.mode, self.threads = graph, mode, threads
        self.simulated = simulated
        self.report = CheckReport()
        self._engines: dict[tuple[int, ...], Engine] = {}

    def engine(self, shape: Sequence[int]) -> Engine:
        """The engine for images of that shape [C, H, W], compiled once."""
        key = tuple(shape)
        if key not in self._engines:
            self._engines[key] = Engine(self.graph, key, self.threads, self.mode)
        return self._engines[key]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """images: float32 [N, C, H, W]; the dense part's outputs, from integers."""
        found = self.engine(images.shape[1:]).run(images.cpu().numpy())
        outputs = tuple(torch.from_numpy(o).to(images.device) for o in found)
        with ExitStack() as stack:
            meters = stack.enter_context(counting(self.simulated)) if self.mode == "fast" else {}
            simulated = self.simulated(images)
        for name, meter in meters.items():
            self.report.events.setdefault(name, []).extend(meter.per_image().tolist())
            self.report.outputs[name] = self.report.outputs.get(name, 0) + meter.outputs
        self._compare(outputs, (simulated,) if isinstance(simulated, Tensor) else tuple(simulated), len(images))
        self.report.images += len(images)
        return outputs[0] if isinstance(simulated, Tensor) else outputs

    def _compare(self, outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...], count: int) -> None:
        for image in range(count):
            index = self.report.images + image
            eventless = not any(counts[index] for counts in self.report.events.values())
            same = all(torch.equal(o[image], e[image]) for o, e in zip(outputs, expected, strict=True))
            if eventless and not same:
                self.report.mismatches.append(index)

    def check(self) -> CheckReport:
        """The report; InputError when an image without overflow differed from the simulation."""
        if self.report.mismatches:
            raise InputError(
                f"integer engine: {len(self.report.mismatches)} images without overflow differ from the simulation "
                f"(first: image {self.report.mismatches[0]}), expected equality bit for bit: please report this defect"
            )
        return self.report
