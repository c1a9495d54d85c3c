"""What holds for every method of conf/method: it trains on every task, and its integers are its simulation."""

import copy
from functools import cache

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from composing import built, composed, quantization_of, read_of, settings_of
from quant.networks import Classifier, Gated, Pyramid, images, quantized, trained
from tasks.suite import Once

from oaq_repro.accumulator import NAMED
from oaq_repro.deploy.lower import lower
from oaq_repro.errors import InputError
from oaq_repro.experiment import make_task
from oaq_repro.hints import quiet
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.reference import Reference
from oaq_repro.methods.controller import BatchOverflow, OverflowController
from oaq_repro.models.checkpoint import load_weights
from oaq_repro.models.network import Network
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.calibration.settle import SettleConfig, settle
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import layers
from oaq_repro.run import Run
from oaq_repro.settings.composing import config_folder
from oaq_repro.settings.kinds import KINDS
from oaq_repro.settings.schema import build

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = sorted(path.stem for path in (config_folder() / "method").glob("*.yaml") if path.stem != "float32")
NAMES = [name for name in FILES if KINDS["method"][composed(f"method={name}").method.kind].task is None]
CERTIFIED = ["a2q", "a2q_plus", "axe", "certified_scale", "oaq_certified"]
TASKS = ["classification", "detection", "segmentation"]


def method_of(name, *overrides):
    return built("method", f"method={name}", *overrides)


LONG = ("rq", "axe")  # one draws every code, the other solves for every column


@cache
def parent_and_batch(task):
    """The task's default network, untrained, and eight samples of its embedded data."""
    settings = settings_of(f"task={task}", "data.subset=8", "data.val_subset=8", "data.batch_size=8")
    data = build("data", settings["data"])
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    network = build("model", settings["model"], num_classes=len(data.classes), input_shape=data.input_shape)
    return data, network, next(iter(data.train_dataloader()))


@pytest.mark.parametrize(
    "name, task_name, teacher",
    [
        pytest.param(n, t, s, marks=pytest.mark.slow if n in LONG and (t != "classification" or s == "float") else ())
        for n in NAMES
        for t, s in [*((task, "null") for task in TASKS), ("classification", "float")]
    ],
)
def test_two_steps_on_every_task(name, task_name, teacher):
    overrides = (f"task={task_name}", f"method={name}", "schedule.controller_interval=1", "accumulator.bits=14")
    overrides = (*overrides, f"task.teacher={teacher}")
    data, network, batch = parent_and_batch(task_name)
    if teacher != "null":
        batch = batch[0], None  # no labels
    method = built("method", *overrides)
    model = quantize_network(network.dense, method, quantization_of(*overrides))
    calibrate(model, [batch[0]])
    method.start(model)
    run, taught = Run(read_of(*overrides), data, fingerprint="f"), Network(model, network.codec)
    task = make_task(run, taught, "finetune", copy.deepcopy(network.dense))
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
    method.finish(model, lambda: [batch[0]])
    model.eval()
    graph = lower(model)
    if name in CERTIFIED:
        assert all(certify(layer, graph.qparams(layer.inputs[0])).certified for layer in graph.layers())
    assert all(layer.probe is None and layer.meter is None for layer in layers(model).values())


def trained_and_settled(name, **config):
    """Two steps with a controller's update, then settling, so that alphas move; the graph is checked on the way."""
    torch.manual_seed(0)
    method = method_of(name, "schedule.controller_interval=1")
    model = quantized(trained(Classifier()), method, **config)
    for layer in layers(model).values():
        layer.accumulator = NAMED["int16"].with_bits(14)
    method.start(model)
    controllers = [c for c in method.callbacks() if isinstance(c, OverflowController)]
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    for _ in range(2):
        for controller in controllers:
            controller.watch(model)
        loss = torch.nn.functional.cross_entropy(model(images()), torch.arange(4)) + method.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for controller in controllers:
            seen = {n: BatchOverflow(m.channel_events, m.peaks) for n, m in controller.unwatch(model).items()}
            controller.update(model, seen, batch_size=4, progress=0.0)
    freeze(model.eval())
    method.finish(model, lambda: [images()])
    settle(model, lambda: [images()], method.settle or SettleConfig())
    run = Reference(lower(model)).run(images().numpy())
    assert not any(events.any() for events in run.events.values())
    with torch.no_grad():
        assert np.array_equal(run.outputs[0], model(images()).numpy())
    return model


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", NAMES)
def test_factors_of_either_granularity_train_settle_and_lower(name, granularity):
    """Integers stay the simulation."""
    model = trained_and_settled(name, granularity=granularity)
    factors = [layer.weight_quantizer.alpha for layer in layers(model).values()]
    apart = [len(alpha.unique()) > 1 for alpha in factors]
    assert not any(apart) if granularity == "tensor" else any(apart) or name in CERTIFIED


@pytest.mark.parametrize("requantization", ["dyadic", "fixed16"])
@pytest.mark.parametrize("name", NAMES)
def test_integer_requantization_trains_settles_and_lowers(name, requantization):
    """Also where scales are learned; with fixed16 the graph refuses scales that are not snapped."""
    graph = lower(trained_and_settled(name, requantization=requantization))
    assert {layer.requantization for layer in graph.layers()} == {requantization}
    if name in CERTIFIED:
        assert all(certify(layer, graph.qparams(layer.inputs[0])).certified for layer in graph.layers())


@pytest.mark.parametrize(
    "bits, requantization",
    [*((bits, "float32") for bits in (4, 5, 6, 7, 8)), (4, "fixed16"), (8, "dyadic"), (8, "fixed16")],
)
@pytest.mark.parametrize("name", NAMES)
def test_integers_are_the_simulation_at_every_width(name, bits, requantization):
    method = method_of(name)
    for network in (Gated, Pyramid):
        model = quantized(
            trained(network()), method, accumulator="int16" if requantization == "fixed16" else "int32",
            weight_bits=bits, activation_bits=bits, requantization=requantization,
        )  # fmt: skip
        method.start(model)
        freeze(model)
        method.finish(model, lambda: [images()])
        x = 2 * images(3, 18, seed=4)  # beyond the calibrated range, so that clamps act
        run = Reference(lower(model).with_accumulator(NAMED["int32"])).run(x.numpy())
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
    method.finish(model, lambda: [images()])
    fresh = quantized(trained(Classifier(), seed=1), method, accumulator="int16", batches=[images(seed=9)])
    fresh.load_state_dict(model.state_dict())
    x = images(2, seed=3)
    with torch.no_grad():
        assert torch.equal(fresh(x), model(x))


def test_one_factor_of_an_earlier_version_is_that_of_every_channel():
    """Files of networks with one factor per layer load by both ways, and a number beside the point is named."""
    model = quantized(trained(Classifier()))
    state = {k: v for k, v in model.state_dict().items() if torch.is_tensor(v)}
    state["expand.0.weight_quantizer.alpha"] = torch.tensor(2.5)
    for load in (lambda m: m.load_state_dict(state, strict=False), lambda m: load_weights(m, state, "file")):
        fresh = quantized(trained(Classifier(), seed=1))
        load(fresh)
        alpha = layers(fresh)["expand.0"].weight_quantizer.alpha
        assert alpha.shape == (16,) and alpha.eq(2.5).all()
    state["expand.0.weight_quantizer.alpha"] = torch.ones(7)
    with pytest.raises(
        InputError, match=r"expand.0.weight_quantizer.alpha is \[7\] in the file, \[16\] in the network"
    ):
        load_weights(model, state, "file")
