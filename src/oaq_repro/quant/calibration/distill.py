"""Images made from a network alone, for calibration without data (ZeroQ, Cai et al., CVPR 2020, arXiv 2001.00281).

Starting from noise, images are changed until the mean and deviation of what reaches every batch norm are those that it
has kept of its training. No label and no image is looked at.

What the source leaves open and what is chosen here: the loss is the sum, over batch norms and over the image itself,
whose channels are to have mean 0 and deviation 1 after normalization, of the mean squared differences of channels'
means and of their deviations; all images are one batch; Adam; pixels are kept in their range after every step; images
start as uniform noise.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from oaq_repro.errors import InputError


def distilled(dense: nn.Module, start: Tensor, lowest: Tensor, highest: Tensor, steps: int, lr: float) -> Tensor:
    """Images float32 [N, C, H, W] that look to the batch norms of `dense` as its training images did.

    dense: a float network with live batch norm; left as it was. start: the images to begin with; lowest, highest: of
    normalized pixels, [C, 1, 1]. Raises InputError where there is no batch norm that has kept statistics.
    """
    norms = [m for m in dense.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise InputError(
            "quantization.calibration.source: found distilled, expected another one for a network without batch norm, "
            "whose statistics images could be made to have"
        )
    seen: list[Tensor] = []

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(_difference(inputs[0], norm.running_mean, (norm.running_var + norm.eps).sqrt()))  # type: ignore[arg-type,operator]

    was_training = dense.training
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr)
    try:
        dense.eval()
        for _ in range(steps):
            seen.clear()
            with torch.enable_grad():
                dense(images)
                own = _difference(images, images.new_zeros(()), images.new_ones(()))
                (images.grad,) = torch.autograd.grad(torch.stack([own, *seen]).sum(), images)
            optimizer.step()
            with torch.no_grad():
                images.copy_(images.maximum(lowest).minimum(highest))
    finally:
        dense.train(was_training)
        for hook in hooks:
            hook.remove()
    return images.detach()


def _difference(x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Of the statistics of x [N, C, ...] by channel from these, [C] or scalar: a scalar."""
    by_channel = x.transpose(0, 1).flatten(1)
    variance = by_channel.var(1, unbiased=False)
    found = (variance + 1e-12).sqrt()  # whose slope at zero is not infinite
    return (by_channel.mean(1) - mean).square().mean() + (found - deviation).square().mean()
