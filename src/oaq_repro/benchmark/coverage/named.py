"""The networks of the page, by name, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from oaq_repro.models import lraspp, ssdlite

Shape = tuple[int, int, int]
SEED = 0
TIMM = (
    "resnet18", "resnet34", "resnet50", "resnet50d", "seresnext26d_32x4d", "res2net50_26w_4s", "mobilenetv1_100",
    "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small",
    "mobilenet_edgetpu_v2_xs", "tf_mobilenetv3_large_100", "mnasnet_100", "semnasnet_100", "spnasnet_100",
    "fbnetc_100", "hardcorenas_a", "tinynet_a", "lcnet_050", "mixnet_s", "efficientnet_lite0", "efficientnet_b0",
    "tf_efficientnet_lite0", "efficientnetv2_rw_t", "regnetx_002", "regnety_002", "rexnet_100", "ghostnet_100",
    "ghostnetv2_100", "repghostnet_050", "repvgg_a0", "mobileone_s0", "densenet121", "dla34", "hrnet_w18_small",
    "cspdarknet53", "ese_vovnet19b_dw", "dpn68", "selecsls42", "xception41", "starnet_s1",
    "eca_resnet33ts", "resnest14d", "skresnet18", "edgenext_xx_small", "mobilevit_xxs", "fastvit_t8", "convnext_atto",
    "deit_tiny_patch16_224",
)  # fmt: skip
TORCHVISION = (
    "shufflenet_v2_x0_5", "squeezenet1_1", "googlenet", "inception_v3", "alexnet", "vgg11_bn", "fcn_resnet50",
    "deeplabv3_mobilenet_v3_large",
)  # fmt: skip


class UNet(nn.Module):
    """A U-Net (arXiv 1505.04597) of few channels, with padding and batch norm, that ends at the image's size."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128), classes: int = 21) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.larger = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(_double(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Image [N, 3, H, W], H and W multiples of 8, to logits [N, classes, H, W]."""
        sides = []
        for block in self.down:
            x = block(x if block is self.down[0] else self.pool(x))
            sides.append(x)
        for larger, block, side in zip(self.larger, self.up, sides[-2::-1], strict=True):
            x = block(torch.cat([side, larger(x)], dim=1))
        return self.head(x)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Named:
    """A network of the page: whose code it is, how it is built, its input [C, H, W]."""

    library: str
    build: Callable[[], nn.Module]
    input_shape: Shape = (3, 224, 224)


def _torchvision(name: str) -> Named:
    def build() -> nn.Module:
        more: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        more |= {"weights_backbone": None} if name.startswith(("fcn", "deeplab")) else {}
        return torchvision.models.get_model(name, weights=None, **more)

    return Named("torchvision", build, (3, 299, 299) if name == "inception_v3" else (3, 224, 224))


NAMED_NETWORKS: dict[str, Named] = {
    **{name: Named("timm", lambda name=name: timm.create_model(name)) for name in TIMM},  # type: ignore[misc]
    **{name: _torchvision(name) for name in TORCHVISION},
    "lraspp_mobilenet_v3_large": Named("torchvision", lambda: lraspp.build(21, (3, 224, 224)).dense),
    "ssdlite320_mobilenet_v3_large": Named(
        "torchvision", lambda: ssdlite.build(90, (3, 320, 320)).dense, (3, 320, 320)
    ),
    "unet": Named("this package", UNet),
}


@torch.no_grad()
def with_random_weights(network: nn.Module, images: Tensor) -> nn.Module:
    """In place, in evaluation mode: every layer's outputs have unit variance, batch norms the statistics of `images`.

    So no layer is silent and none grows without bound, as after training. Layer by layer in one forward pass (LSUV,
    arXiv 1511.06422); batch norms scale by 1. images: float32 [N, C, H, W], N of at least 2.
    """

    def scale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        spread = output.std()
        if not spread > 0:
            return output
        for parameter in layer.parameters():
            parameter.div_(spread)
        return output / spread

    network.eval()
    hooks = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            module.momentum = None  # a plain mean over batches
            module.reset_running_stats()
            module.train()
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            hooks.append(module.register_forward_hook(scale))
    network(images)
    for hook in hooks:
        hook.remove()
    return network.eval()


def parameters_of(network: nn.Module) -> int:
    """Numbers that training finds."""
    return sum(parameter.numel() for parameter in network.parameters())
