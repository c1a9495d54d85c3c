"""What holds for every method of conf/method: it trains on every task, and its integers are its simulation."""

from functools import cache

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from composing import composed
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained
from tasks.suite import Once

from oaq_repro.accumulator import NAMED
from oaq_repro.configuration import build, config_folder
from oaq_repro.deploy.lower import lower
from oaq_repro.experiment import make_task
from oaq_repro.hints import quiet
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.reference import Reference
from oaq_repro.models.network import Network
from oaq_repro.quant.calibrate import calibrate, freeze
from oaq_repro.quant.convert import quantize_network
from oaq_repro.quant.network import layers

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = sorted(path.stem for path in (config_folder() / "method").glob("*.yaml") if path.stem != "float32")
CERTIFIED = ["a2q", "a2q_plus", "certified_scale", "oaq_certified"]
TASKS = ["classification", "detection", "segmentation"]


def method_of(name, *overrides):
    return build(composed(f"method={name}", *overrides).method, "method")


@cache
def parent_and_batch(task):
    """The task's default network, untrained, and eight samples of its embedded data."""
    config = composed(f"task={task}", "data.subset=8", "data.val_subset=8", "data.batch_size=8")
    data = build(config.data, "data")
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    network = build(config.model, "model", num_classes=len(data.classes), input_shape=data.input_shape)
    return data, network, next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    "name, task_name",
    [
        pytest.param(n, t, marks=pytest.mark.slow if n == "rq" and t != "classification" else ())  # draws every code
        for n in NAMES
        for t in TASKS
    ],
)
def test_two_steps_on_every_task(name, task_name):
    config = composed(f"task={task_name}", f"method={name}", "schedule.controller_interval=1", "accumulator.bits=14")
    data, network, batch = parent_and_batch(task_name)
    method = build(config.method, "method")
    quantization = build(config.quantization, "quantization")
    model = quantize_network(network.dense, method, quantization)
    calibrate(model, [batch[0]])
    method.start(model)
    task = make_task(config, Network(model, network.codec), data, "finetune")
    if method.fine_tune:
        before = {key: value.clone() for key, value in task.state_dict().items() if torch.is_tensor(value)}
        task.penalty = method.penalty
        quiet()
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, limit_val_batches=0, callbacks=method.callbacks(),
        )  # fmt: skip
        task.train()
        trainer.fit(task, train_dataloaders=Once(batch), val_dataloaders=Once(batch))
        assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["loss"])
        untouched = [k for k, p in task.named_parameters() if torch.equal(before[k], p) and p.grad is None]
        assert not untouched
    freeze(model)
    method.finish(model)
    model.eval()
    graph = lower(model)
    if name in CERTIFIED:
        assert all(certify(layer, graph.qparams(layer.inputs[0])).certified for layer in graph.layers())
    assert all(layer.probe is None and layer.meter is None for layer in layers(model).values())


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("name", NAMES)
def test_integers_are_the_simulation_at_every_width(name, bits):
    method = method_of(name)
    for network in (Gated, Pyramid):
        model = quantized(trained(network()), method, accumulator="int32", weight_bits=bits, activation_bits=bits)
        method.start(model)
        freeze(model)
        method.finish(model)
        x = 2 * images(3, 18, seed=4)  # beyond the calibrated range, so that clamps act
        run = Reference(lower(model)).run(x.numpy())
        with torch.no_grad():
            expected = model(x)
        for found, wanted in zip(run.outputs, [expected] if torch.is_tensor(expected) else expected, strict=True):
            assert np.array_equal(found, wanted.numpy())
        for layer in layers(model).values():
            assert layer.weight_quantizer.bits == bits


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_restores_the_quantizers(name):
    """Nothing that a method learns may live outside the state dict."""
    method = method_of(name)
    model = quantized(trained(Classifier()), method, accumulator="int16")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    for layer in layers(model).values():
        layer.accumulator = NAMED["int16"].with_bits(14)
    method.finish(model)
    fresh = quantized(trained(Classifier(), seed=1), method, accumulator="int16", batches=[images(seed=9)])
    fresh.load_state_dict(model.state_dict())
    x = images(2, seed=3)
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))
