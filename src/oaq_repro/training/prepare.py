"""The stage before folding: a float network that a method trains in a way of its own, with live batch norm.

It is made once and shared by all runs that differ only in what follows. What is kept is a plain float network: the
parametrizations under which it was trained are replaced by the weights that they stand for. Where it goes on from
another preparation (`Method.prepared_before`), that one is made first, in the same way.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from oaq_repro.methods.base import Method
from oaq_repro.quant.conversion.trace import keep_computed_weights
from oaq_repro.quant.efficiency import efficiencies
from oaq_repro.results.store import training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import prepared_hash
from oaq_repro.settings.schema import build
from oaq_repro.tasks.base import Task
from oaq_repro.training.shared import train_or_load
from oaq_repro.training.stage import evaluate, fit

SOFT, HARD, EFFICIENCY = "soft", "hard", "efficiency"
"""What is kept beside the network, before the name of each number."""


@dataclass
class Prepared:
    """folder: where it is kept. metrics: on held-out data by the record's stages: `soft`, as it is trained, and `hard`,
    with the weights that are kept. efficiency: of pruned networks by layer (`quant.efficiency`), as they are trained.
    """

    folder: Path
    metrics: dict[str, dict[str, float]]
    efficiency: dict[str, float]


def prepare(run: Run, task: Task, method: Method) -> Prepared:
    """Bring `task.dense`, untrained, to the network that is quantized, training it when nobody has yet."""
    return _prepare(run, task, method, {key: value.clone() for key, value in task.dense.state_dict().items()})


def _prepare(run: Run, task: Task, method: Method, start: Mapping[str, Tensor]) -> Prepared:
    """start: the untrained network's state."""
    settings = run.settings
    folder = training_folder(settings.results, "prepared", prepared_hash(settings, run.fingerprint), run.seed)

    def train() -> dict[str, float]:
        if method.prepared_before is not None:
            earlier = settings.method.model_copy(update=method.prepared_before)
            before = replace(run, settings=settings.model_copy(update={"method": earlier}))
            _prepare(before, task, build("method", earlier), start)
        torch.manual_seed(run.seed)  # what is drawn must not depend on whether the float parent was trained just now
        callbacks = method.prepare(task.dense, start, settings.quantization, run.data.input_shape)
        task.penalty = method.preparation_penalty
        fit(run, task, folder, "prepare", f"preparing {settings.method.kind}", callbacks)
        found: dict[str, dict[str, float]] = {}
        none: AbstractContextManager[dict[str, float]] = nullcontext({})
        with none if method.pruning is None else efficiencies(task.dense) as found[EFFICIENCY]:
            found[SOFT] = evaluate(run, task, "soft, on held-out data")
        method.harden(task.dense)
        bake(task.dense)
        found[HARD] = evaluate(run, task, "hard, on held-out data")
        return {f"{stage} {name}": value for stage, values in found.items() for name, value in values.items()}

    trained = train_or_load(folder, task.dense, train)
    kept: dict[str, dict[str, float]] = {SOFT: {}, HARD: {}, EFFICIENCY: {}}
    for key, value in trained.metrics.items():
        stage, _, name = key.partition(" ")
        kept[stage][name] = value
    efficiency = kept.pop(EFFICIENCY)
    return Prepared(trained.folder, kept, efficiency)


def bake(network: nn.Module) -> None:
    """Make plain parameters of all weights that parametrizations compute, in place."""
    network.eval()
    for module in list(network.modules()):
        keep_computed_weights(module)
