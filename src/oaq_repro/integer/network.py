"""The integer graph as a torch module, so that a task evaluates it like any network, and is checked on the way."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.integer.executor import Executor
from oaq_repro.integer.graph import Graph
from oaq_repro.quant.network import QuantizedNetwork


@dataclass
class IntegerReport:
    """What the integer graph did on the images it has seen.

    events: per layer, one count per image. outputs: per layer, outputs checked over all images. mismatches:
    indices of images without any event whose result differs from the simulation (must stay empty).
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


class IntegerNetwork(nn.Module):
    """Runs the integer graph and compares every image with the simulated network, bit for bit."""

    def __init__(self, graph: Graph, simulated: QuantizedNetwork, threads: int) -> None:
        super().__init__()
        self.executor = Executor(graph, threads=threads)
        self.simulated = simulated
        self.report = IntegerReport()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """images: float32 [N, C, H, W]; the dense part's outputs, from integers."""
        execution = self.executor.run(images.cpu().numpy())
        outputs = tuple(torch.from_numpy(o).to(images.device) for o in execution.outputs)
        simulated = self.simulated(images)
        expected = (simulated,) if isinstance(simulated, Tensor) else tuple(simulated)
        self._compare(outputs, expected, execution.events, len(images))
        for name, count in execution.outputs_per_image.items():
            self.report.outputs[name] = self.report.outputs.get(name, 0) + count * len(images)
        self.report.images += len(images)
        return outputs[0] if isinstance(simulated, Tensor) else outputs

    def _compare(self, outputs, expected, events, count: int) -> None:
        for name, counts in events.items():
            self.report.events.setdefault(name, []).extend(int(c) for c in counts)
        for image in range(count):
            eventless = not any(int(counts[image]) for counts in events.values())
            same = all(torch.equal(o[image], e[image]) for o, e in zip(outputs, expected, strict=True))
            if eventless and not same:
                self.report.mismatches.append(self.report.images + image)

    def check(self) -> IntegerReport:
        """The report; InputError when an image without overflow differed from the simulation."""
        if self.report.mismatches:
            raise InputError(
                f"integer graph: {len(self.report.mismatches)} images without overflow differ from the simulation "
                f"(first: image {self.report.mismatches[0]}), expected equality bit for bit: please report this defect"
            )
        return self.report
