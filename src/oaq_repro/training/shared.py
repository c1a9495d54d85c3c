"""Trainings that several runs share: each is made once, in a folder whose name says all that it depends on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import distributed, nn

from oaq_repro.errors import InputError
from oaq_repro.files import file_hash, json_checksum, write_atomic
from oaq_repro.models.checkpoint import load_checkpoint
from oaq_repro.results.store import LONG_S, WEIGHTS, is_worker, lock_run
from oaq_repro.training.checkpoints import LAST, drop_unreadable

METRICS = "metrics.json"
REMEDY = "remove its folder to train there again"


@dataclass
class Trained:
    """Folder, SHA-256 of the weights' file in it, and the metrics that were kept with them."""

    folder: Path
    hash: str
    metrics: dict[str, float]


def train_or_load(folder: Path, network: nn.Module, train: Callable[[], dict[str, float]]) -> Trained:
    """Bring `network` to the weights in `folder`, making them with `train` when nobody has yet.

    `train` trains `network` in place, goes on from its own checkpoint in `folder` where it was interrupted, and
    returns metrics to keep. Where another process is at it, this one waits. Only tensors are shared: other state
    (the accumulators of quantized layers) stays what it was before. InputError for files that cannot be read.
    """
    weights, last = folder / WEIGHTS, folder / LAST
    own = {name: value for name, value in network.state_dict().items() if not torch.is_tensor(value)}
    with lock_run(folder, LONG_S):
        if not (folder / METRICS).exists():
            drop_unreadable(last)
            metrics = train()
            if not is_worker():
                state = {k: v.contiguous() for k, v in network.state_dict().items() if torch.is_tensor(v)}
                write_atomic(weights, save(state))
                _write_metrics(folder / METRICS, metrics, file_hash(weights))  # last: it says all is there
            if distributed.is_available() and distributed.is_initialized():
                distributed.barrier()  # the others read what the first has written
        if not is_worker():
            last.unlink(missing_ok=True)
    metrics, expected = _read_metrics(folder / METRICS)
    try:
        found = file_hash(weights)
        if expected not in (found, None):
            raise InputError(f"{weights}: is damaged (its checksum is not that in {METRICS})")
        load_checkpoint(network, weights)
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from error
    network.load_state_dict(own, strict=False)  # a checkpoint of another run may have been resumed
    return Trained(folder, found, metrics)


def _write_metrics(path: Path, metrics: Mapping[str, float], weights_hash: str) -> None:
    content = {"metrics": metrics, "weights": weights_hash}
    write_atomic(path, json.dumps({**content, "checksum": json_checksum(content)}, indent=1) + "\n")


def _read_metrics(path: Path) -> tuple[dict[str, float], str | None]:
    """Metrics, and the hash of the weights beside them; None in folders of early versions, which hold metrics only."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(value, int | float) for value in content.values()):
            if content["checksum"] != json_checksum(content):
                raise ValueError("the checksum does not fit")
            return content["metrics"], content["weights"]
        return content, None
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as metrics ({error!r}); {REMEDY}") from error
