import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.networks import Classifier, images, quantized, trained

from oaq_repro.accumulator import NAMED
from oaq_repro.errors import InputError
from oaq_repro.methods.pact import PACT, ClippedActivation
from oaq_repro.quant.network import layers
from oaq_repro.quant.numerics import QParams
from oaq_repro.quant.observers import ObserverConfig
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.settings.schema import build

ONE = torch.ones(())
X = QParams(ONE, 0 * ONE, 255 * ONE)


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.floats(0.2, 4.0), st.sampled_from([1.0, 1.0, 2.3]))
def test_gradients_are_those_of_the_papers_clip(seed, bits, clip, alpha):
    """Equation 1, `(|x| - |x - a| + a) / 2`, differentiated by autograd; rounding passes straight through."""
    quantizer = ClippedActivation(bits, "relu", ObserverConfig(), True).train()
    quantizer.alpha.fill_(alpha)
    with torch.no_grad():
        quantizer.reach.fill_(clip)
    values, upstream = (2 * random(seed, 2, 3, 4, 4)).requires_grad_(), random(seed + 1, 2, 3, 4, 4)
    out = quantizer(values, ONE)
    (out.dequantize() * upstream).sum().backward()

    x, a = values.detach().clone().requires_grad_(), torch.tensor(clip, requires_grad=True)
    y = (x.abs() - (x - a).abs() + a) / 2
    (y * upstream).sum().backward()
    if alpha == 1.0:  # else the shortened grid ends up to half a step beside the clip
        torch.testing.assert_close(quantizer.reach.grad, a.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values.grad, x.grad)
    scale = float(out.scale)
    assert (out.dequantize() - y).abs().max() <= scale / 2 * 1.001 + (abs(clip - scale * float(out.q_max)))


def test_calibration_starts_the_clip_and_training_does_not_observe():
    quantizer = ClippedActivation(8, "relu6", ObserverConfig(), True).train()
    quantizer.observe(torch.tensor([0.0, 9.0]), ONE)
    assert quantizer.reach == 6.0
    quantizer(torch.tensor([[50.0]]), ONE)
    assert quantizer.reach == 6.0 and quantizer.observed == 1


def test_signed_activations_keep_the_observer():
    model = quantized(trained(Classifier()), PACT())
    kinds = {name: type(layer.output) for name, layer in layers(model).items()}
    assert kinds["stem.0"] is ClippedActivation and kinds["project.0"] is ActivationQuantizer


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(3, 8), st.booleans())
def test_weights_are_dorefas_on_the_symmetric_grid(seed, bits, per_channel):
    weight = random(seed, 4, 3, 3, 3).requires_grad_()
    codes, scale = PACT().weight_quantizer(bits, per_channel)(weight, torch.zeros(4), X, NAMED["int16"])
    t = weight.detach().tanh()
    t = t / (t.abs().amax((1, 2, 3), keepdim=True) if per_channel else t.abs().max())
    largest = 2 ** (bits - 1) - 1
    torch.testing.assert_close(codes.detach() / largest, t, atol=0.501 / largest, rtol=0)
    assert len(set(scale.tolist())) == (4 if per_channel else 1)

    def error(factor):
        rows = (t * factor * largest * scale.reshape(-1, 1, 1, 1) - weight.detach()).square().flatten(1).sum(1)
        return rows if per_channel else rows.sum()

    assert (error(1.0) <= error(1.01)).all() and (error(1.0) <= error(0.99)).all()
    upstream = random(seed + 1, 4, 3, 3, 3)
    (codes * scale.reshape(-1, 1, 1, 1) * upstream).sum().backward()
    t_of_zero = (t / weight.detach().tanh()) * largest * scale.reshape(-1, 1, 1, 1)
    expected = upstream * (1 - weight.detach().tanh() ** 2) * t_of_zero
    torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-5)


def test_the_penalty_is_weight_decay_of_the_clips():
    model = quantized(trained(Classifier()), PACT())
    clips = [m.reach for m in model.modules() if isinstance(m, ClippedActivation)]
    assert len(clips) == 3
    penalty = PACT(clip_decay=0.5).penalty(model)
    assert float(penalty.detach()) == pytest.approx(0.25 * sum(float(c.detach()) ** 2 for c in clips))
    penalty.backward()
    assert all(c.grad == 0.5 * c for c in clips)


def test_a_step_moves_every_parameter():
    model = quantized(trained(Classifier()), PACT()).train()
    (model(2 * images()).square().mean() + PACT().penalty(model)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_bad_decay():
    with pytest.raises(InputError, match="method.clip_decay: found -1"):
        build("method", {"kind": "pact", "clip_decay": -1})
