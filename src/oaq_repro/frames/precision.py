"""The way of a run whose frames have precisions of their own (`methods.videoiq`, docs/video.md).

float parent -> stage 1: one network at all widths -> per width: folding, quantization, calibration, settling -> stage
2: the policy, with these frozen -> per width an integer graph -> every held-out frame on the graph that the policy
chose, and the controls.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from oaq_repro.errors import InputError
from oaq_repro.frames.graphs import Deployment, Width
from oaq_repro.methods.any_precision import AtWidth, set_width
from oaq_repro.methods.videoiq import VideoIQ
from oaq_repro.models.network import Network
from oaq_repro.models.policy import Policy
from oaq_repro.quant.calibration.calibrate import calibrate, freeze
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.results.store import training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import prepared_hash
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.video import AnyPrecisionTask, PolicyTask
from oaq_repro.training.fine_tune import fine_tuning_folder
from oaq_repro.training.making import make_task
from oaq_repro.training.post_training import post_training
from oaq_repro.training.shared import Trained, train_or_load
from oaq_repro.training.stage import calibration_images, evaluate, fit

CPU = torch.device("cpu")


def trained_precisions(run: Run, method: VideoIQ, parent: Task) -> Deployment:
    """From the float parent, which `parent` has, through both stages; what is left is to deploy.

    InputError where there is no schedule for the policy.
    """
    if run.settings.schedule.finetune is None:
        raise InputError(
            f"schedule.finetune: found null, expected fields of Schedule: method {run.settings.method.kind} trains its "
            "policy there"
        )
    network = method.make_any_precision(copy.deepcopy(parent.dense))
    stage1 = train_widths(run, method, network, parent)
    widths = {bits: quantized(run, method, network, bits) for bits in method.precision.widths}
    for key, value in stage1.metrics.items():
        bits, _, metric = key.partition(" ")
        widths[int(bits)].metrics.setdefault("soft", {})[metric] = value
    task = policy_task(run, method, {bits: width.network for bits, width in widths.items()}, parent)
    stage2 = train_policy(run, method, task)
    return Deployment(run, task.cpu().eval(), parent, widths, stage2.folder)


def train_widths(run: Run, method: VideoIQ, network: nn.Module, parent: Task) -> Trained:
    """Stage 1: bring the network of several widths to its weights, training it when nobody has yet."""
    own = {"widths": method.precision.widths, "distillation": method.precision.distillation, "set_width": set_width}
    task = make_task(run, Network(network), "prepare", parent.dense, AnyPrecisionTask, temperature=1.0, **own)
    folder = training_folder(run.settings.results, "prepared", prepared_hash(run.settings, run.fingerprint), run.seed)

    def train() -> dict[str, float]:
        fit(run, task, folder, "prepare", f"all widths, {run.settings.method.kind}")
        found: dict[str, float] = {}
        for bits in method.precision.widths:
            set_width(network, bits)
            found |= {f"{bits} {name}": v for name, v in evaluate(run, task, f"{bits} bits, on held-out data").items()}
        return found

    trained = train_or_load(folder, network, train)
    task.cpu()
    return trained


def quantized(run: Run, method: VideoIQ, network: nn.Module, bits: int) -> Width:
    """The quantized network of one width, its ranges set and settled; always the same from the same weights."""
    config = run.settings.quantization
    made = method.quantized(AtWidth(network, bits), config, run.data.input_shape)

    def images(what: str) -> Iterable[Tensor]:
        return calibration_images(run, CPU, config.calibration_batches, f"calibrating {what}, {bits} bits")

    calibrate(made, images("in float"))
    observe_codes(made, images("by codes"))
    method.start(made)
    freeze(made)
    return Width(made.eval(), post_training(run, made, method, None))


@torch.no_grad()
def observe_codes(model: QuantizedNetwork, images: Iterable[Tensor]) -> None:
    """Observe ranges once more, of values that are computed from codes: a few bits shift those that follow."""
    for module in model.modules():
        if isinstance(module, ActivationQuantizer) and module.observing:
            module.observed.zero_()
    model.train()
    for batch in images:
        model(batch)
    model.eval()


def policy_task(run: Run, method: VideoIQ, networks: dict[int, QuantizedNetwork], parent: Task) -> PolicyTask:
    """Stage 2: the task of the policy, untrained."""
    wanted = method.policy
    torch.manual_seed(run.seed)  # its weights must not depend on what was trained just now
    policy = Policy(
        run.data.input_shape[0], len(networks) + 1, len(run.data.classes), wanted.size, wanted.network,
        wanted.channels, wanted.width, wanted.hidden,
    )  # fmt: skip
    weights = {f"{name}_weight": getattr(wanted, f"{name}_weight") for name in ("cost", "balance", "entropy", "own")}
    task = make_task(
        run, Network(policy), "finetune", parent.dense, PolicyTask, frames=networks, weights=weights,
        tau=lambda epoch: wanted.tau * wanted.tau_decay**epoch,
    )  # fmt: skip
    assert isinstance(task, PolicyTask)
    return task


def train_policy(run: Run, method: VideoIQ, task: PolicyTask) -> Trained:
    """Bring the policy to its weights, training it when nobody has yet."""
    folder = fine_tuning_folder(run, method)

    def train() -> dict[str, float]:
        fit(run, task, folder, "finetune", "policy")
        return {}

    return train_or_load(folder, task.dense, train)
