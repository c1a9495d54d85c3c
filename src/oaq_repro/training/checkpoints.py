"""Lightning's checkpoints as files of ours: written whole or not at all, and never one that cannot be read twice."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.plugins import TorchCheckpointIO

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.models.checkpoint import read_torch

LAST = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint, not in the system's temporary folder from where Lightning copies.

    InputError when the disk refuses; the checkpoint before stays then.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None) -> None:
        """Save by a rename."""
        write_atomic(path, torch_bytes(checkpoint))


def torch_bytes(content: Any) -> bytes:
    """What torch.save writes; in memory it cannot meet a full disk, of which torch makes errors of many kinds."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def drop_unreadable(path: Path) -> None:
    """Remove a checkpoint that is damaged, and say so; training starts anew then."""
    if path.exists():
        try:
            read_torch(path)
        except InputError as error:
            print(f"{error}; it is removed and training starts anew")
            path.unlink(missing_ok=True)


def plugins() -> list[Any]:
    """Lightning's plugins of every training.

    Under Slurm Lightning would answer SIGUSR1 with a checkpoint in the working folder and a new job of its own.
    """
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [AtomicCheckpointIO(), SLURMEnvironment(auto_requeue=False)]
    return [AtomicCheckpointIO()]
