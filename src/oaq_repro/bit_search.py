"""Bits per layer, found from the float parent before it is quantized, as HAWQ-V3 finds them (docs/hawq.md).

A run is named by the settings of its search, not by what the search finds. What it found is kept beside the
fine-tuning that starts from it, so that a run that goes on goes on with the same bits. Traces of the Hessian and times
of layers are kept beside the float parent, for all searches that differ in the rest.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from pydantic import ValidationError
from torch import distributed
from tqdm import tqdm

from oaq_repro.errors import InputError
from oaq_repro.files import file_hash, write_atomic
from oaq_repro.layer_times import layer_times, read_times, write_text
from oaq_repro.methods.base import Method
from oaq_repro.quant.calibration.calibrate import calibrate
from oaq_repro.quant.config import Override, QuantizationConfig
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.conversion.trace import fold
from oaq_repro.quant.mixed_precision.assignment import Assignment, Problem, assign, random_assignments
from oaq_repro.quant.mixed_precision.cost import LayerCost, bit_operations, layer_costs
from oaq_repro.quant.mixed_precision.search import Constraint, SearchConfig, cannot_overflow
from oaq_repro.quant.mixed_precision.sensitivity import Batch, Trace, hessian_traces, sensitivities
from oaq_repro.quant.network import QuantizedNetwork, input_quantizer, layers
from oaq_repro.results.sections import AssignedLayer, BitAssignment
from oaq_repro.results.store import LONG_S, is_worker, lock_run, short_hash
from oaq_repro.run import Run
from oaq_repro.tasks.base import Task
from oaq_repro.training.fine_tune import fine_tuning_folder
from oaq_repro.training.stage import calibration_images

ASSIGNMENT_NAME = "assignment.json"
UNITS = {"size": "bytes", "bops": "bit operations", "latency": "milliseconds"}
"""Of the cost, by the constraint."""
REMEDY = "remove it to search again"


def assigned(run: Run, task: Task, method: Method, parent: Path) -> BitAssignment:
    """Bits of the layers of the float parent, which `task` has, found now or by an earlier attempt at the same run.

    parent: the folder of the float parent. Raises InputError as `search`, and for files that cannot be read.
    """
    assert method.search is not None
    path = fine_tuning_folder(run, method) / ASSIGNMENT_NAME
    with lock_run(path.parent, LONG_S):
        if not path.exists() and not is_worker():
            found = Search(run, task, method, method.search, parent).found()
            write_atomic(path, found.model_dump_json(indent=1) + "\n")
        if distributed.is_available() and distributed.is_initialized():  # the others read what the first has written
            patient: Any = distributed.new_group(backend="gloo", timeout=timedelta(seconds=LONG_S))
            distributed.barrier(patient)
    try:
        return BitAssignment.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputError(f"{path}: cannot be read as bits of layers ({error}); {REMEDY}") from error


def with_bits(config: QuantizationConfig, bits: Mapping[str, int]) -> QuantizationConfig:
    """With these bits of the weights and of the input of layers."""
    found = {f"search {name}": Override(name, weight_bits=b, input_bits=b) for name, b in bits.items()}
    return replace(config, overrides={**config.overrides, **found})


@dataclass(frozen=True)
class Search:
    """One search. task: has the float parent, whose folder is `parent`."""

    run: Run
    task: Task
    method: Method
    wanted: SearchConfig
    parent: Path

    def found(self) -> BitAssignment:
        """The assignment that is asked for. Layers that read the same codes are tied.

        Raises InputError where no layer is free, where none of a layer's widths can be certified, and as
        `quant.mixed_precision.assignment` and `quant.mixed_precision.sensitivity` do.
        """
        run, wanted, shape = self.run, self.wanted, self.run.data.input_shape
        model = fold(self.task.cpu().eval().dense, shape)
        quantized = self.quantized({})
        costs = {cost.name: cost for cost in layer_costs(model, shape)}
        free = [name for name in layers(quantized) if name in costs and name not in quantized.own_bits]
        if not free:
            raise InputError("method.search: found no layer whose bits are free, expected one beside first and last")
        traces = self.traces(model)
        config = run.settings.quantization
        sensitivity = sensitivities(model, {name: traces[name] for name in free}, wanted.widths, config.per_channel)
        table, file = self.times(free) if wanted.constraint == "latency" else ({}, None)
        cost = table or {
            name: {bits: _cost(wanted.constraint, costs[name], bits, quantized) for bits in wanted.widths}
            for name in free
        }
        bound = Problem(sensitivity, cost).bound(wanted.fraction, wanted.widths[0], wanted.widths[-1])
        ties = _ties(quantized, free)
        allowed = self.allowed(quantized, ties)
        problem = Problem(_only(sensitivity, allowed), _only(cost, allowed), ties)
        found = self.choose(problem, bound)
        tied = {name: tie[0] for tie in ties for name in tie if len(tie) > 1}
        return BitAssignment(
            unit=UNITS[wanted.constraint],  # type: ignore[arg-type]
            sensitivity=found.sensitivity,
            cost=found.cost,
            bound=bound,
            table=None if file is None else file_hash(file),
            layers=[
                AssignedLayer(
                    name=name,
                    bits=found.bits[name],
                    tied=tied.get(name),
                    trace=traces[name].mean,
                    trace_error=traces[name].standard_error,
                    sensitivity=dict(problem.sensitivity[name]),
                    cost=dict(problem.cost[name]),
                )
                for name in free
            ],
        )

    def choose(self, problem: Problem, bound: float) -> Assignment:
        """The best one, or a control."""
        if self.wanted.choice == "random":
            return random_assignments(problem, bound, self.wanted.draw + 1, self.run.seed)[-1]
        return assign(problem, bound, worst=self.wanted.choice == "most")

    def quantized(self, bits: Mapping[str, int]) -> QuantizedNetwork:
        """The float parent, quantized with these bits of single layers, not calibrated."""
        config = with_bits(self.run.settings.quantization, bits)
        return quantize_network(self.task.dense, self.method, config, self.run.data.input_shape)

    def traces(self, model: torch.nn.Module) -> dict[str, Trace]:
        """Of the float parent, with batch norm folded; estimated once for all searches on it."""
        wanted = self.wanted

        def estimate() -> dict[str, Any]:
            device = _device(self.run)
            self.task.to(device)
            batches = self.batches(device)
            found = hessian_traces(model.to(device), batches, self.task.loss, wanted.vectors, self.run.seed)
            self.task.cpu()
            model.cpu()
            return {name: asdict(trace) for name, trace in found.items()}

        path = self.parent / f"hessian-{wanted.vectors}-{wanted.batches}.json"
        found = _kept(path, lambda: json.dumps(estimate(), indent=1))
        try:
            return {name: Trace(**trace) for name, trace in json.loads(found).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: found {error}, expected traces of layers; {REMEDY}") from error

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Training images with their targets."""
        count, run = self.wanted.batches, self.run
        loader, shown = run.data.calibration_dataloader(), run.settings.trainer.enable_progress_bar
        total = min(count, len(loader))
        for batch in tqdm(islice(loader, count), "sensitivity", total, leave=False, disable=not shown):
            yield move_data_to_device(batch, device)

    def times(self, free: Sequence[str]) -> tuple[dict[str, dict[int, float]], Path]:
        """Milliseconds by layer and width, and the file that they are from."""
        run, wanted = self.run, self.wanted
        if wanted.table is not None:
            path = Path(wanted.table)
        else:
            method = {k: v for k, v in run.science["method"].items() if k not in ("search", "settle")}
            key = [method, run.science.get("quantization"), list(wanted.widths)]
            path = self.parent / f"times-{short_hash(json.dumps(key, sort_keys=True))}.json"
            _kept(path, lambda: write_text(layer_times(self.calibrated(free), run.data.input_shape)))
        return read_times(path).of(free, wanted.widths, path), path

    def calibrated(self, free: Iterable[str]) -> dict[int, QuantizedNetwork]:
        """By each of the widths the network with these bits in all free layers."""
        found = {}
        for bits in self.wanted.widths:
            network = self.quantized(dict.fromkeys(free, bits))
            count = self.run.settings.quantization.calibration_batches
            calibrate(network, calibration_images(self.run, torch.device("cpu"), count, f"calibrating, {bits} bits"))
            self.method.start(network)
            found[bits] = network.eval()
        return found

    def allowed(self, quantized: QuantizedNetwork, ties: Iterable[Sequence[str]]) -> dict[str, list[int]]:
        """The widths that every layer may have; InputError where there is none."""
        if not self.wanted.certified:
            return {name: list(self.wanted.widths) for tie in ties for name in tie}
        modules = layers(quantized)
        found: dict[str, list[int]] = {}
        for tie in ties:
            reads = input_quantizer(quantized, tie[0]).bits
            fit = [b for b in self.wanted.widths if all(cannot_overflow(modules[x], b, min(b, reads)) for x in tie)]
            if not fit:
                raise InputError(
                    f"method.search.certified: found no width of {list(self.wanted.widths)} at which {', '.join(tie)} "
                    f"cannot overflow {modules[tie[0]].accumulator.name}; expected fewer bits or shorter blocks "
                    "(accumulator=int16_block accumulator.block=16)"
                )
            found |= dict.fromkeys(tie, fit)
        return found


def _only(table: Mapping[str, Mapping[int, float]], allowed: Mapping[str, list[int]]) -> dict[str, dict[int, float]]:
    return {name: {bits: row[bits] for bits in allowed[name]} for name, row in table.items()}


def _cost(constraint: Constraint, cost: LayerCost, bits: int, quantized: QuantizedNetwork) -> float:
    if constraint == "size":
        return cost.weights * bits / 8
    return bit_operations(cost.macs, bits, min(bits, input_quantizer(quantized, cost.name).bits))


def _ties(quantized: QuantizedNetwork, free: Sequence[str]) -> list[list[str]]:
    """The free layers by what they read, as the branches of a residual block read the same codes."""
    readers: dict[str, list[str]] = defaultdict(list)
    for name in free:
        readers[quantized.sources[name]].append(name)
    return list(readers.values())


def _device(run: Run) -> torch.device:
    """Where the run trains."""
    gpu = run.settings.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The text of a file, which is made where it is not there; other processes wait meanwhile."""
    with lock_run(path.parent, LONG_S):
        if not path.exists():
            write_atomic(path, make())
        return path.read_text(encoding="utf-8")
