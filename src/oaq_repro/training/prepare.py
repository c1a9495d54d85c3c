"""The stage before folding: a float network that a method trains in a way of its own, with live batch norm.

It is made once and shared by all runs that differ only in what follows. What is kept is a plain float network: the
parametrizations under which it was trained are replaced by the weights that they stand for.
"""

from pathlib import Path

import torch
from torch import nn

from oaq_repro.methods.base import Method
from oaq_repro.quant.conversion.trace import keep_computed_weights
from oaq_repro.results.store import training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import prepared_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training.shared import train_or_load
from oaq_repro.training.stage import evaluate, fit

SOFT, HARD = "soft", "hard"


def prepare(run: Run, task: Task, method: Method) -> tuple[Path, dict[str, dict[str, float]]]:
    """Bring `task.dense`, untrained, to the network that is quantized, training it when nobody has yet.

    Returns the folder where it is kept, and its metrics on held-out data by the record's stages: `soft`, as it is
    trained, and `hard`, with the weights that are kept.
    """
    name = prepared_hash(run.settings, run.fingerprint)
    folder = training_folder(run.settings.results, "prepared", name, run.seed)

    def train() -> dict[str, float]:
        torch.manual_seed(run.seed)  # what is drawn must not depend on whether the float parent was trained just now
        callbacks = method.prepare(task.dense)
        fit(run, task, folder, "prepare", f"preparing {run.settings.method.kind}", callbacks)
        found = {SOFT: evaluate(run, task, "soft, on held-out data")}
        method.harden(task.dense)
        bake(task.dense)
        found[HARD] = evaluate(run, task, "hard, on held-out data")
        return {f"{stage} {metric}": value for stage, values in found.items() for metric, value in values.items()}

    trained = train_or_load(folder, task.dense, train)
    metrics: dict[str, dict[str, float]] = {SOFT: {}, HARD: {}}
    for key, value in trained.metrics.items():
        stage, _, metric = key.partition(" ")
        metrics[stage][metric] = value
    return trained.folder, metrics


def bake(network: nn.Module) -> None:
    """Make plain parameters of all weights that parametrizations compute, in place."""
    network.eval()
    for module in list(network.modules()):
        keep_computed_weights(module)
