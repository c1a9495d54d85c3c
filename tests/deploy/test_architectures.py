"""Networks that people deploy, from their makers' code: simulation, engine and ONNX Runtime are one."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from quant.networks import images, quantized
from torch import nn

from oaq_repro.deploy.lower import lower
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.onnx.exporter import build_model
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.quant.calibration.settle import SettleConfig, settle

SIZES = {
    "mobilenetv3_small_100": 64, "efficientnet_b0": 64, "ghostnet_100": 64, "densenet121": 64, "repvgg_a0": 64,
    "torchvision.shufflenet_v2_x0_5": 96,
}  # fmt: skip


def made(name):
    """The network at its initial weights, with statistics that are not."""
    torch.manual_seed(0)
    room, _, plain = name.rpartition(".")
    network = torchvision.models.get_model(plain, num_classes=10) if room else timm.create_model(plain, num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
            nn.init.uniform_(module.weight, 0.7, 1.3)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_bit_exact(name):
    network = made(name)
    shape = (3, SIZES[name], SIZES[name])
    seen, x = images(2, shape[1]), images(2, shape[1], seed=2)
    model = quantized(network, batches=[seen])
    settle(model, lambda: [seen], SettleConfig())
    with torch.no_grad():
        simulated, real = model(x).numpy(), network(x).numpy()
    assert np.abs(simulated - real).mean() < 0.15 * real.std()
    graph = lower(model)
    for mode in MODES:
        found = Engine(graph, shape, mode=mode).run(seen.numpy() if mode == "fast" else x.numpy())[0]
        expected = model(seen).detach().numpy() if mode == "fast" else simulated  # without overflow, that is settled
        np.testing.assert_array_equal(found, expected, err_msg=mode)
    np.testing.assert_array_equal(run_onnx(build_model(graph, shape), x.numpy())[0], simulated)
