"""Reading weights from a file: one loader for every network, one clear message when the file is of another one."""

import hashlib
import json
import warnings
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
PLAIN = ("state_dict", "model", "model_state_dict")  # names under which training scripts keep the weights,
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # and their running means
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, Lightning modules, torch.compile
COUNTERS = ("n_averaged",)  # beside averaged weights (torch.optim.swa_utils)
CLASSIFIERS = ("classifier.", "fc.", "head.fc.")  # timm's names for the last layer


def read_state_dict(path: Path | str, key: str | None = None) -> dict[str, Tensor]:
    """Tensors by name from a state dict (.safetensors, .pth, .pt) or a Lightning checkpoint of ours (.ckpt).

    Of a Lightning checkpoint the dense part is read and its prefix `dense.` removed. Where the file holds state dicts
    under names (`PLAIN`, `AVERAGED`) the one called `key` is read; by default the plain weights, and where there are
    averaged ones beside them that is said. Never unpickles objects (`weights_only=True`).
    Raises InputError when the file is absent, unreadable, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file, expected a .safetensors, .pth or .ckpt file")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else read_torch(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path}: not a safetensors file ({error})") from error
    content = _chosen(content, key, f"checkpoint {path}")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"checkpoint {path}: holds no named tensors, expected a state dict")
    ours = {k.removeprefix("dense."): v for k, v in tensors.items() if k.startswith("dense.")}
    return ours or tensors


def _chosen(content: Any, key: str | None, source: str) -> Any:
    """The state dict of that key in what a file holds, or the one that is taken where no key is given."""
    found = (
        [name for name, value in content.items() if isinstance(value, Mapping)] if isinstance(content, Mapping) else []
    )
    if key is not None:
        if key not in found:
            raise InputError(f"model.checkpoint_key: found {key!r}, expected one of the state dicts in {source}: "
                             f"{', '.join(map(repr, found)) or 'it holds only one, without a name'}")  # fmt: skip
        return content[key]
    known = [name for name in (*PLAIN, *AVERAGED) if name in found]
    if not known:
        return content
    others = [name for name in known[1:] if name in AVERAGED]
    if others:
        hint = " or ".join(f"+model.checkpoint_key={name}" for name in others)
        warnings.warn(f"{source}: took {known[0]!r}; averaged weights are there as well: {hint}", stacklevel=4)
    elif known[0] in AVERAGED:
        warnings.warn(f"{source}: took the averaged weights {known[0]!r}, there are no others", stacklevel=4)
    return content[known[0]]


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

    Prefixes that wrappers left on all names are taken off, which is said.
    Raises InputError naming `source` and the first mismatching names or shapes; `module` is unchanged then.
    """
    tensors = without_prefixes(module, tensors, source)
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


def without_prefixes(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """The same tensors under the names of the network: `PREFIXES` that all have and the network has not are gone."""
    names, taken = list(module.state_dict()), []
    tensors = {k: v for k, v in tensors.items() if k not in COUNTERS}
    while True:
        common = [p for p in PREFIXES if tensors and all(k.startswith(p) for k in tensors)]
        if not common or any(name.startswith(common[0]) for name in names):
            break
        taken.append(common[0])
        tensors = {k.removeprefix(common[0]): v for k, v in tensors.items()}
    if taken:
        warnings.warn(f"{source}: took the prefix {''.join(taken)!r} off all names", stacklevel=4)
    return tensors


def load_checkpoint(module: nn.Module, path: Path | str | None, key: str | None = None) -> None:
    """Load a whole network from `path`; nothing happens for None. InputError as `load_weights`.

    `key`: which of the file's state dicts, see `read_state_dict`.
    """
    if path is not None:
        load_weights(module, read_state_dict(path, key), f"checkpoint {path}")
    elif key is not None:
        raise InputError(f"model.checkpoint_key: found {key!r} without a model.checkpoint, expected none")


def load_backbone(module: nn.Module, path: Path | str | None) -> None:
    """Load everything but the classifier from a timm classification file into a timm network; None does nothing.

    For ImageNet weights that lie on disk: what `pretrained=true` does with a download. The classifier of the file
    is dropped and that of `module` stays as it is. InputError as `load_weights`.
    """
    if path is None:
        return
    tensors = without_prefixes(module, read_state_dict(path), f"backbone_checkpoint {path}")
    tensors = {k: v for k, v in tensors.items() if not k.startswith(CLASSIFIERS)}
    own = {k: v for k, v in module.state_dict().items() if k.startswith(CLASSIFIERS)}
    load_weights(module, tensors | own, f"backbone_checkpoint {path}")
