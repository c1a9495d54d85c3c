"""Images for calibration that are made in the place of training images."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.quant.calibration.distill import distilled
from oaq_repro.results.store import LONG_S, lock_run
from oaq_repro.run import Run


def with_made_images(run: Run, dense: nn.Module, folder: Path) -> Run:
    """The run with images made as `quantization.calibration` says; itself where that says real ones.

    dense: the float network that will be quantized, which `folder` is of: distilled images are kept there, for all runs
    that quantize it. InputError for a network without batch norm, and for a kept file that cannot be read.
    """
    wanted = run.settings.quantization.calibration
    if wanted.source == "real":
        return run
    if wanted.source != "distilled":
        return replace(run, made_images=noise(run, wanted.source == "uniform"))
    path = folder / f"distilled-{wanted.images}-{wanted.steps}-{wanted.lr:g}.npy"
    with lock_run(folder, LONG_S):
        if not path.exists():
            lowest, highest = pixel_range(run)
            dense.cpu()
            found = distilled(dense, noise(run, uniform=True), lowest, highest, wanted.steps, wanted.lr)
            content = io.BytesIO()
            np.save(content, found.numpy())
            write_atomic(path, content.getvalue())
        try:
            return replace(run, made_images=torch.from_numpy(np.load(path, allow_pickle=False)))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}), expected images; remove it to make them again"
            ) from error


def noise(run: Run, uniform: bool) -> Tensor:
    """Images as the network sees them, float32 [N, C, H, W]: uniform pixels, or normal ones after normalization."""
    shape = (run.settings.quantization.calibration.images, *run.data.input_shape)
    generator = torch.Generator().manual_seed(run.seed)
    if not uniform:
        return torch.randn(shape, generator=generator)
    lowest, highest = pixel_range(run)
    return lowest + torch.rand(shape, generator=generator) * (highest - lowest)


def pixel_range(run: Run) -> tuple[Tensor, Tensor]:
    """What pixels of 0 and 1 are after normalization, float32 [C, 1, 1] each."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (run.data.mean, run.data.std))
    return -mean / std, (1 - mean) / std
