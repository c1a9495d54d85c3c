"""The integer engine as a torch module, so that a task evaluates it like any network, and is checked on the way."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import Mode
from oaq_repro.integer.graph import Graph
from oaq_repro.quant.calibration.calibrate import counting
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.quantizers import ActivationQuantizer

Outputs = Tensor | tuple[Tensor, ...]


class Simulation(nn.Module):
    """The simulated network, which remembers what the engine is compared with, so that it runs once for all modes.

    events: per layer, one count per image, of the sums that the simulation makes, which are exact. outputs: per layer,
    outputs checked over all images. digests: of every image's outputs, in the order seen.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__()
        self.network = network
        self.dynamic = any(isinstance(m, ActivationQuantizer) and m.observer.dynamic for m in network.modules())
        self.events: dict[str, list[int]] = {}
        self.outputs: dict[str, int] = {}
        self.digests: list[bytes] = []

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """images: float32 [N, C, H, W]; the dense part's outputs."""
        with counting(self.network) as meters:
            outputs = self._alone(images) if self.dynamic else self.network(images)
        for name, meter in meters.items():
            self.events.setdefault(name, []).extend(meter.per_image().tolist())
            self.outputs[name] = self.outputs.get(name, 0) + meter.outputs
        self.digests += digests((outputs,) if isinstance(outputs, Tensor) else outputs)
        return outputs

    def _alone(self, images: Tensor) -> Outputs:
        """Image by image, so that each has ranges of its own."""
        found = [self.network(image) for image in images.split(1)]
        return torch.cat(found) if isinstance(found[0], Tensor) else tuple(map(torch.cat, zip(*found, strict=True)))

    def totals(self) -> dict[str, int]:
        """Events per layer over all images."""
        return {name: sum(counts) for name, counts in self.events.items()}

    def affected(self) -> list[int]:
        """Indices of images with at least one event."""
        return [i for i in range(len(self.digests)) if any(counts[i] for counts in self.events.values())]


class CheckedEngine(nn.Module):
    """Runs the engine on the images that a simulation has seen, in the same order, and compares them bit for bit.

    In the mode `fast` the engine computes in the graph's own accumulators, so that images with overflow may differ; in
    the others its results are those of 32 bits, and every image has to equal the simulation.
    """

    def __init__(self, graph: Graph, simulation: Simulation, mode: Mode, threads: int) -> None:
        super().__init__()
        self.graph, self.mode, self.threads = graph, mode, threads
        self.simulation = simulation
        self.images = 0
        self.different: list[int] = []
        self._engines: dict[tuple[int, ...], Engine] = {}

    def engine(self, shape: Sequence[int]) -> Engine:
        """The engine for images of that shape [C, H, W], compiled once."""
        key = tuple(shape)
        if key not in self._engines:
            self._engines[key] = Engine(self.graph, key, self.threads, self.mode)
        return self._engines[key]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Outputs:
        """images: float32 [N, C, H, W]; the dense part's outputs, from integers."""
        found = self.engine(images.shape[1:]).run(images.cpu().numpy())
        outputs = tuple(torch.from_numpy(o).to(images.device) for o in found)
        expected = self.simulation.digests[self.images :]
        pairs = zip(digests(outputs), expected, strict=False)
        self.different += [self.images + i for i, (digest, simulated) in enumerate(pairs) if digest != simulated]
        self.images += len(images)
        return outputs if len(outputs) > 1 else outputs[0]

    def check(self) -> None:
        """Raise InputError where an image differed from the simulation: one without overflow, in exact modes any."""
        simulated = len(self.simulation.digests)
        if self.images != simulated:
            raise InputError(f"integer engine: has seen {self.images} images, expected the {simulated} simulated ones")
        affected = set(self.simulation.affected()) if self.mode == "fast" else set()
        mismatches = [image for image in self.different if image not in affected]
        if mismatches:
            raise InputError(
                f"integer engine: {len(mismatches)} images without overflow differ from the simulation "
                f"(first: image {mismatches[0]}), expected equality bit for bit: please report this defect"
            )


def digests(outputs: tuple[Tensor, ...]) -> list[bytes]:
    """A digest of every image's outputs [N, ...]; those of all modes would not fit into memory."""
    arrays = [(o + 0.0).cpu().contiguous().numpy() for o in outputs]  # one zero: -0.0 becomes 0.0
    return [hashlib.sha256(b"".join(a[i].tobytes() for a in arrays)).digest() for i in range(len(arrays[0]))]
