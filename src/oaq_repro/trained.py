"""Trainings that several runs share: each is made once, in a folder whose name says all that it depends on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed, nn

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.results.store import LONG_S, file_hash, is_worker, lock_run, run_hash
from oaq_repro.training import LAST

WEIGHTS, METRICS = "weights.safetensors", "metrics.json"


@dataclass
class Trained:
    """Folder, SHA-256 of the weights' file in it, and the metrics that were kept with them."""

    folder: Path
    hash: str
    metrics: dict[str, float]


def training_folder(kind: str, config: Mapping[str, Any], science: Mapping[str, Any], fingerprint: str) -> Path:
    """`<results>/<kind>/<hash>/<seed>`; `science` is the part of the configuration that the training depends on."""
    return Path(config["results"]) / kind / run_hash(science, fingerprint) / str(config["seed"])


def train_or_load(folder: Path, network: nn.Module, train: Callable[[], dict[str, float]]) -> Trained:
    """Bring `network` to the weights in `folder`, making them with `train` when nobody has yet.

    `train` trains `network` in place, goes on from its own checkpoint in `folder` where it was interrupted, and
    returns metrics to keep. Where another process is at it, this one waits. Only tensors are shared: other state
    (the accumulators of quantized layers) stays what it was before. InputError for files that cannot be read.
    """
    own = {name: value for name, value in network.state_dict().items() if not torch.is_tensor(value)}
    with lock_run(folder, LONG_S):
        if not (folder / METRICS).exists():
            metrics = train()
            if not is_worker():
                state = {k: v.contiguous() for k, v in network.state_dict().items() if torch.is_tensor(v)}
                write_atomic(folder / WEIGHTS, lambda path: save_file(state, path))
                write_atomic(folder / METRICS, json.dumps(metrics, indent=1) + "\n")  # last: it says all is there
                (folder / LAST).unlink(missing_ok=True)
            if distributed.is_available() and distributed.is_initialized():
                distributed.barrier()  # the others read what the first has written
    load_checkpoint(network, folder / WEIGHTS)
    network.load_state_dict(own, strict=False)  # a checkpoint of another run may have been resumed
    return Trained(folder, file_hash(folder / WEIGHTS), _read_metrics(folder / METRICS))


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        return {str(k): float(v) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read as metrics ({error}); remove its folder to train there again"
        ) from error
