"""From the settings of a run to settings with bits per layer, as HAWQ-V3 chooses them (docs/hawq.md).

What is found is `quantization.overrides`: a search maps settings to settings, and the run that follows is named by what
it does, not by how its bits were found. Bits are those of weights; inputs keep the bits that the settings give them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from tqdm import tqdm

from oaq_repro.errors import InputError
from oaq_repro.experiment import make_task
from oaq_repro.methods.base import Method
from oaq_repro.models.network import Network
from oaq_repro.quant.assignment import Assignment, Problem, assign, random_assignments
from oaq_repro.quant.config import ROLES, Override, QuantizationConfig
from oaq_repro.quant.convert import quantize_network
from oaq_repro.quant.cost import LayerCost, bit_operations, layer_costs
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.quant.sensitivity import Batch, hessian_traces, sensitivities
from oaq_repro.quant.trace import fold
from oaq_repro.run import Run
from oaq_repro.settings.schema import build
from oaq_repro.training.parent import float_parent

Constraint = Literal["size", "bops"]
Choice = Literal["least", "most", "random"]


@dataclass(frozen=True)
class Search:
    """What is asked for. widths: bits to choose from. constraint, fraction: `C_low + fraction (C_high - C_low)` bounds
    the cost, C_b being that with all free layers at b bits. choice: the least sensitive assignment, or as controls the
    most sensitive one, or a random one. vectors, batches: of Hutchinson's estimate.
    """

    widths: tuple[int, ...] = (4, 8)
    constraint: Constraint = "bops"
    fraction: float = 0.5
    choice: Choice = "least"
    vectors: int = 32
    batches: int = 4


@dataclass(frozen=True)
class Found:
    """The assignment, what bounded it, and `quantization.overrides` that say it, by name."""

    assignment: Assignment
    bound: float
    overrides: dict[str, Override]


def search(run: Run, wanted: Search) -> Found:
    """Bits for the weights of every layer, from the float parent, which is trained when nobody has yet.

    The layers that read the image or make an output, and those to which the settings give bits of their own, keep
    theirs. Layers that read the same codes are tied. Raises InputError for a method that does not quantize, widths that
    there are not, and as `quant.assignment` and `quant.sensitivity` do.
    """
    method: Method = build("method", run.settings.method)
    if not method.quantizes:
        raise InputError(f"method: found {run.settings.method.kind}, expected one that quantizes")
    if len(set(wanted.widths)) < 2 or not all(2 <= bits <= 8 for bits in wanted.widths):
        raise InputError(f"widths: found {list(wanted.widths)}, expected at least two of 2 to 8")
    shape = run.data.input_shape
    network: Network = build("model", run.settings.model, num_classes=len(run.data.classes), input_shape=shape)
    task = make_task(run, network, "float")
    float_parent(run, task)
    model = fold(task.cpu().eval().dense, shape)
    config = run.settings.quantization
    quantized = quantize_network(task.dense, method, _marked(config), shape)
    free = [name for name, layer in layers(quantized).items() if layer.weight_quantizer.bits == config.weight_bits]
    traces = hessian_traces(model, _batches(run, wanted.batches), task.loss, wanted.vectors, run.seed)
    asked = {name: trace for name, trace in traces.items() if name in free}
    sensitivity = sensitivities(model, asked, wanted.widths, config.per_channel)
    costs = {
        cost.name: {bits: _cost(wanted.constraint, cost, bits, quantized) for bits in wanted.widths}
        for cost in layer_costs(model, shape)
        if cost.name in free
    }
    problem = Problem(sensitivity, costs, _ties(quantized, free))
    bound = problem.bound(wanted.fraction, min(wanted.widths), max(wanted.widths))
    if wanted.choice == "random":
        (found,) = random_assignments(problem, bound, 1, run.seed)
    else:
        found = assign(problem, bound, worst=wanted.choice == "most")
    return Found(found, bound, overrides(found.bits, config.weight_bits))


def overrides(bits: Mapping[str, int], weight_bits: int) -> dict[str, Override]:
    """An override for every layer whose bits are not `weight_bits`, those of all others."""
    differing = [(name, width) for name, width in bits.items() if width != weight_bits]
    return {f"bits_{i}": Override(name, weight_bits=width) for i, (name, width) in enumerate(differing)}


def arguments(found: Mapping[str, Override]) -> list[str]:
    """Overrides as arguments of the command line, without spaces."""
    return [
        f"+quantization.overrides.{key}={{match:'{override.match}',weight_bits:{override.weight_bits}}}"
        for key, override in found.items()
    ]


def _marked(config: QuantizationConfig) -> QuantizationConfig:
    """With other bits for the layers that read the image or make an output, so that conversion says which these are."""
    other = 8 if config.weight_bits != 8 else 7
    marks = {role: Override(role, weight_bits=other) for role in ROLES}
    return replace(config, overrides={**config.overrides, **marks})


def _cost(constraint: Constraint, cost: LayerCost, bits: int, quantized: QuantizedNetwork) -> float:
    if constraint == "size":
        return cost.weights * bits / 8
    return bit_operations(cost.macs, bits, input_quantizer(quantized, cost.name).bits)


def _ties(quantized: QuantizedNetwork, free: Sequence[str]) -> list[list[str]]:
    """Layers that read the same codes, as the branches of a residual block."""
    readers: dict[str, list[str]] = defaultdict(list)
    for name in free:
        readers[quantized.sources[name]].append(name)
    return list(readers.values())


def _batches(run: Run, count: int) -> Iterator[Batch]:
    """Batches of training images with their targets."""
    loader, shown = run.data.calibration_dataloader(), run.settings.trainer.enable_progress_bar
    total = min(count, len(loader))
    yield from tqdm(islice(loader, count), "sensitivity", total, leave=False, disable=not shown)
