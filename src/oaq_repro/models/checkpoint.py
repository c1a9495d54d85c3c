"""Reading weights from a file: one loader for every network, one clear message when the file is of another one."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from oaq_repro.errors import InputError

SHOWN = 3  # how many mismatching keys a message lists
CLASSIFIERS = ("classifier.", "fc.", "head.fc.")  # timm's names for the last layer


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """Tensors by name from a state dict (.safetensors, .pth, .pt) or a Lightning checkpoint of ours (.ckpt).

    Of a Lightning checkpoint the dense part is read and its prefix `dense.` removed; `{"state_dict": ...}` and
    `{"model": ...}` wrappers are opened. Never unpickles objects (`weights_only=True`).
    Raises InputError when the file is absent, unreadable, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file, expected a .safetensors, .pth or .ckpt file")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else read_torch(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path}: not a safetensors file ({error})") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"checkpoint {path}: holds no named tensors, expected a state dict")
    ours = {k.removeprefix("dense."): v for k, v in tensors.items() if k.startswith("dense.")}
    return ours or tensors


def read_torch(path: Path) -> Any:
    """What torch.save wrote, without unpickling objects; InputError when it cannot be read.

    Of checkpoints of ours (.ckpt) the checksums are compared too: torch writes one per tensor and never looks at them.
    """
    try:
        if path.suffix == ".ckpt":
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise InputError(f"checkpoint {path}: is damaged (the checksum of {damaged} does not fit)")
        return torch.load(path, "cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # torch.load raises pickle, zip, runtime and unicode errors on foreign files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"checkpoint {path}: cannot be read with weights_only=True ({reason}), "
            "expected a plain state dict; convert files with pickled objects to .safetensors"
        ) from error


def content_hash(state: Mapping[str, Any]) -> str:
    """Sha256 (hex) of a state dict: names, types, shapes and values, whatever the layout of the file that holds it."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(json.dumps([name, value], sort_keys=True).encode())
    return digest.hexdigest()


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into `module`: the same names and shapes, no more and no fewer.

    Raises InputError naming `source` and the first mismatching names or shapes; `module` is unchanged then.
    """
    expected = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    # one number where the network has one per channel is that of every channel: range factors of earlier versions
    tensors = {k: v.expand_as(expected[k]) if v.dim() == 0 and k in expected else v for k, v in tensors.items()}
    missing = [k for k in expected if k not in tensors]
    unexpected = [k for k in tensors if k not in expected]
    shapes = [
        f"{k} is {list(tensors[k].shape)} in the file, {list(v.shape)} in the network"
        for k, v in expected.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    # Old files lack BatchNorm's step counter, which no forward pass reads.
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    problems = [
        f"{title}: {', '.join(items[:SHOWN])}" + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
        for title, items in (("missing", missing), ("unknown", unexpected), ("other shape", shapes))
        if items
    ]
    if problems:
        raise InputError(f"{source}: is of another network than {type(module).__name__}; " + "; ".join(problems))
    module.load_state_dict(tensors, strict=False)


def load_checkpoint(module: nn.Module, path: Path | str | None) -> None:
    """Load a whole network from `path`; nothing happens for None. InputError as `load_weights`."""
    if path is not None:
        load_weights(module, read_state_dict(path), f"checkpoint {path}")


def load_backbone(module: nn.Module, path: Path | str | None) -> None:
    """Load everything but the classifier from a timm classification file into a timm network; None does nothing.

    For ImageNet weights that lie on disk: what `pretrained=true` does with a download. The classifier of the file
    is dropped and that of `module` stays as it is. InputError as `load_weights`.
    """
    if path is None:
        return
    tensors = {k: v for k, v in read_state_dict(path).items() if not k.startswith(CLASSIFIERS)}
    own = {k: v for k, v in module.state_dict().items() if k.startswith(CLASSIFIERS)}
    load_weights(module, tensors | own, f"backbone_checkpoint {path}")
