"""The policy network of VideoIQ (Sun et al., ICCV 2021, arXiv 2108.10394): a small look at every frame, then memory.

Every frame is shrunk, seen by convolutions, and a long short-term memory over the frames of a clip says how each is to
be computed. A second head says what the clip shows, which trains the features and is not needed afterwards.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oaq_repro.models.backbones import create
from oaq_repro.models.cnn import convolutions


class Policy(nn.Module):
    """Clips float32 [N, T, C, H, W] -> scores of the choices float32 [N, T, choices] and of the classes [N, classes].

    A choice depends on the frames up to its own.
    """

    def __init__(
        self,
        inputs: int,
        choices: int,
        classes: int,
        size: int,
        network: Literal["cnn", "mobilenetv2"],
        channels: Sequence[int],
        width: float,
        hidden: int,
    ) -> None:
        """inputs: channels of a frame. size: side of the shrunk frames in pixels. network: `cnn` with `channels`, every
        convolution but the first of stride 2, or `mobilenetv2` of `width` (the source). hidden: units of the memory.
        """
        super().__init__()
        self.size = size
        if network == "mobilenetv2":
            self.features: nn.Module = create("mobilenetv2", width, 0, inputs)
            units = int(self.features.num_features)  # type: ignore[arg-type]
        else:
            modules = convolutions(inputs, channels, [1, *[2] * (len(channels) - 1)])
            modules["average"], modules["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
            self.features, units = nn.Sequential(modules), channels[-1]
        self.memory = nn.LSTM(units, hidden, batch_first=True)
        self.choose = nn.Linear(hidden, choices)
        self.classify = nn.Linear(hidden, classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of choices and classes."""
        seen, _ = self.memory(self.features(self.shrunk(clips.flatten(0, 1))).unflatten(0, clips.shape[:2]))
        return self.choose(seen), self.classify(seen.mean(1))

    def choices(self, clips: Tensor) -> Tensor:
        """The choice for every frame, int64 [N, T]."""
        return self(clips)[0].argmax(-1)

    def shrunk(self, frames: Tensor) -> Tensor:
        """Frames [N, C, H, W] at the size that the policy sees, averages of their pixels."""
        return F.adaptive_avg_pool2d(frames, self.size)

    @torch.no_grad()
    def macs(self, frame_shape: Sequence[int]) -> int:
        """Products per frame [C, H, W]: features, memory and choice; the classes are for training only."""
        total = 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal total
            assert isinstance(module.weight, Tensor)
            total += module.weight.numel() * (output[0, 0].numel() if output.dim() == 4 else 1)

        layers = [m for m in self.features.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        hooks = [module.register_forward_hook(count) for module in layers]
        was_training = self.training
        try:
            device = self.choose.weight.device
            self.eval().features(self.shrunk(torch.zeros(1, *frame_shape, device=device)))
        finally:
            self.train(was_training)
            for hook in hooks:
                hook.remove()
        gates = sum(p.numel() for name, p in self.memory.named_parameters() if name.startswith("weight"))
        return total + gates + self.choose.weight.numel()
