"""The float parent: trained once per task, data, network, schedule and seed, and shared by all methods."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from oaq_repro.data.base import DataModule
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.logging import make_loggers
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.results.store import file_hash, lock_run, run_hash
from oaq_repro.tasks.base import Task
from oaq_repro.training import LAST, evaluate, fit

LOCK_TIMEOUT_S = 7 * 24 * 3600.0
"""A run that finds its parent being trained by another process waits for it."""

WEIGHTS, METRICS = "weights.safetensors", "metrics.json"


@dataclass
class Parent:
    """Weights and held-out metrics of a float network; `hash` is the SHA-256 of the weights' file."""

    weights: Path
    hash: str
    metrics: dict[str, float]


def train_or_load(config: dict[str, Any], data: DataModule, task: Task, fingerprint: str) -> Parent:
    """Bring `task.dense` to the float parent's weights, training them when nobody has yet.

    Without a float schedule (`schedule.float=null`, for pretrained networks and checkpoints) the weights stay
    as the model config made them. An interrupted training goes on from its last epoch.
    """
    science = {key: config[key] for key in ("task", "data", "model", "trainer")}
    science["schedule"] = {"float": config["schedule"]["float"]}
    folder = Path(config["results"]) / "parents" / run_hash(science, fingerprint) / str(config["seed"])
    with lock_run(folder, LOCK_TIMEOUT_S):
        if not (folder / METRICS).exists():
            if task.schedule is not None:
                loggers = make_loggers(config["logger"], folder, "float", config)
                fit(
                    task,
                    task.schedule,
                    data,
                    folder,
                    config["trainer"],
                    config["seed"],
                    loggers,
                    description="float parent",
                )
            metrics = evaluate(task, data.val_dataloader(), config["trainer"], "float on held-out data")
            state = {name: tensor.contiguous() for name, tensor in task.dense.state_dict().items()}
            write_atomic(folder / WEIGHTS, lambda path: save_file(state, path))
            write_atomic(folder / METRICS, json.dumps(metrics, indent=1) + "\n")  # last: it says the parent is whole
            (folder / LAST).unlink(missing_ok=True)
        load_checkpoint(task.dense, folder / WEIGHTS)
        return Parent(folder / WEIGHTS, file_hash(folder / WEIGHTS), _read_metrics(folder / METRICS))


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read as metrics ({error}); remove its folder to train the parent again"
        ) from error
