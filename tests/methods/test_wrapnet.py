import pytest
import torch
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.methods.wrapnet import ExcessProbe, WrapNet, excess
from oaq_repro.quant.calibration.calibrate import count_overflow
from oaq_repro.quant.network import layers
from oaq_repro.quant.overflow import Geometry, partial_convolutions
from oaq_repro.settings.schema import build


def probed(accumulator):
    model = quantized(trained(Classifier()), WrapNet()).train()
    for layer in layers(model).values():
        layer.accumulator = accumulator
        layer.probe = ExcessProbe(layer)
    return model


def test_excess_by_hand():
    """12 bits: the limit is 2047."""
    sums = torch.tensor([0.0, 2047.0, -4094.0, 3 * 2047.0])
    assert float(excess(sums, Accumulator(12))) == pytest.approx((0 + 0 + 1 + 2) / 4)


@pytest.mark.parametrize("policy", ["int16", "int16_lanes8", "int16_block", "pair_saturating"])
def test_the_penalty_punishes_exactly_the_layers_that_overflow_and_has_a_gradient(policy):
    model = probed(NAMED[policy].with_bits(13))
    model(images())
    meters = count_overflow(model, [images()])
    model.train()(images())
    for name, layer in layers(model).items():
        over = meters[name].peak > 1.0
        assert (float(layer.probe.excess.detach()) > 0) == bool(over), name
    penalty = WrapNet(penalty_weight=2.0).penalty(model)
    total = sum(float(layer.probe.excess.detach()) for layer in layers(model).values())
    assert float(penalty.detach()) == pytest.approx(2 * total, rel=1e-5) and total > 0
    penalty.backward()
    assert layers(model)["stem.0"].weight.grad.abs().sum() > 0


def test_partial_convolutions_add_up_and_carry_gradients():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (2, 3, 5, 5), generator=generator).float().requires_grad_()
    weight = torch.randint(-127, 128, (4, 3, 3, 3), generator=generator).float().requires_grad_()
    z, geometry = torch.tensor(100.0), Geometry(padding=(1, 1, 1, 1))
    total = sum(partial_convolutions(codes, z, weight, geometry, NAMED["int16_lanes8"]))
    expected = torch.nn.functional.conv2d(codes - z, weight, padding=1)
    assert torch.equal(total.float(), expected)
    upstream = torch.randn(expected.shape, generator=generator)
    found = torch.autograd.grad((total * upstream).sum(), [codes, weight])
    wanted = torch.autograd.grad((expected * upstream).sum(), [codes, weight])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_training_on_the_penalty_makes_overflow_rarer():
    torch.manual_seed(0)
    model = probed(Accumulator(13))
    before = sum(m.total() for m in count_overflow(model, [images()]).values())
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(25):
        model(images())
        optimizer.zero_grad()
        WrapNet().penalty(model).backward()
        optimizer.step()
    after = sum(m.total() for m in count_overflow(model, [images()]).values())
    assert after < before / 2


def test_evaluation_is_not_punished():
    model = probed(Accumulator(13)).eval()
    model(images())
    assert WrapNet().penalty(model) == 0.0


def test_bad_penalty():
    with pytest.raises(InputError, match="method.penalty_weight: found -1"):
        build("method", {"kind": "wrapnet", "penalty_weight": -1})
