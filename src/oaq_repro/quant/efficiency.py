"""How much of what a layer could say it says: the entropy of which of its units are on (neural efficiency).

Schaub and Hotaling 2020 (arXiv 2003.02628), as QAP measures it (Hawks et al. 2021): `eta = H / N` with the entropy H in
bits of the pattern of N units, on where their batch norm's output is positive; at the end of the network where its
output is. A layer that is always in one state has 0.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

OUTPUT = "output"
"""Stands for the outputs of the network, which has no name."""


def entropy(counts: Mapping[Any, int]) -> float:
    """Bits of the distribution that these counts are from."""
    total = sum(counts.values())
    return math.fsum(-n / total * math.log2(n / total) for n in counts.values())


@contextmanager
def efficiencies(network: nn.Module) -> Iterator[dict[str, float]]:
    """By name of a batch norm, and OUTPUT, the efficiency on all images that pass the network meanwhile.

    It is there when the block ends. Values [N, C] count; maps are left out, as their patterns are too many to be
    counted. Where the network has several outputs they are OUTPUT, `OUTPUT.1` ...
    """
    seen: dict[str, Counter[bytes]] = {}
    units: dict[str, int] = {}

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        outputs = (output,) if isinstance(output, Tensor) else tuple(output)
        for number, values in enumerate(outputs):
            if values.dim() == 2:
                own = f"{name}.{number}" if number else name
                units[own] = values.shape[1]
                seen.setdefault(own, Counter()).update(_patterns(values))

    found = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)} | {
        OUTPUT: network
    }
    hooks = [module.register_forward_hook(partial(note, name)) for name, module in found.items()]
    result: dict[str, float] = {}
    try:
        yield result
    finally:
        for hook in hooks:
            hook.remove()
    result.update({name: entropy(counts) / units[name] for name, counts in seen.items()})


@torch.no_grad()
def _patterns(values: Tensor) -> Iterator[bytes]:
    """What is on, per image: values [N, C] -> a byte per unit."""
    return map(bytes, (values > 0).to(torch.uint8).tolist())
