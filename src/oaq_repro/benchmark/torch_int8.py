"""Torch's own post-training quantization (FX graph mode), as a frozen TorchScript module."""

import copy
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from oaq_repro.benchmark.case import Case
from oaq_repro.benchmark.networks import BATCHES, images
from oaq_repro.integer.graph.arithmetic import Array


def quantized_runner(case: Case, threads: int, engine: str) -> Callable[[], list[Array]]:
    """Runs the case's image; raises what torch raises. Sets torch's engine and number of threads for the process."""
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine
    network, image = _quantized(case, engine), torch.from_numpy(case.image)

    @torch.no_grad()
    def run() -> list[Array]:
        torch.backends.quantized.engine = engine
        outputs = network(image)
        return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return run


@lru_cache(maxsize=2)  # the engines of one network, for every number of threads
@torch.no_grad()
def _quantized(case: Case, engine: str) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    image = torch.from_numpy(case.image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of what has no other entry yet
        network = with_fusible_activations(copy.deepcopy(case.network)).eval()
        prepared = quantize_fx.prepare_fx(network, get_default_qconfig_mapping(engine), (image,))
        for seed in range(BATCHES):
            prepared(images(case.name, seed=seed))
        return torch.jit.freeze(torch.jit.trace(quantize_fx.convert_fx(prepared), (image,)).eval())


def with_fusible_activations(module: nn.Module) -> nn.Module:
    """In place: timm's batch norms with activation as two modules, ReLU6 as ReLU; torch fuses only those.

    The range of a quantized tensor is the upper clamp.
    """
    from timm.layers import BatchNormAct2d

    for name, child in module.named_children():
        if isinstance(child, nn.ReLU6):
            setattr(module, name, nn.ReLU())
        elif isinstance(child, BatchNormAct2d):
            norm = nn.BatchNorm2d(child.num_features, child.eps)
            norm.load_state_dict(child.state_dict())
            activation = nn.ReLU() if isinstance(child.act, nn.ReLU | nn.ReLU6) else child.act
            setattr(module, name, nn.Sequential(norm, activation).eval())
        else:
            with_fusible_activations(child)
    return module
