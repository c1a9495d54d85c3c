"""The way of a run whose frames have precisions of their own (`methods.videoiq`, docs/video.md).

float parent -> stage 1: one network at all widths -> per width: folding, quantization, calibration, settling -> stage 2:
the policy, with these frozen -> per width an integer graph -> every held-out frame on the graph that the policy chose,
and the controls.
"""

import copy
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from oaq_repro.data.video import VideoData
from oaq_repro.deploy.checked_engine import CheckedEngine, Simulation
from oaq_repro.deploy.lower import lower
from oaq_repro.deploy.record_sections import cost_section, layer_rows, overflow_section
from oaq_repro.files import write_atomic
from oaq_repro.frame_controls import FrameCosts, Held, by_kind
from oaq_repro.integer.engine.latency import latencies
from oaq_repro.methods.any_precision import AtWidth, set_width
from oaq_repro.methods.videoiq import VideoIQ
from oaq_repro.models.checkpoint import content_hash
from oaq_repro.models.network import Network
from oaq_repro.models.policy import Policy
from oaq_repro.quant.calibrate import calibrate, freeze
from oaq_repro.quant.cost import FLOAT_BITS, bit_operations
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.quant.quantizers import ActivationQuantizer
from oaq_repro.results.record import FramePrecision, Metric, Stage, WidthGraph
from oaq_repro.results.store import is_worker, training_folder
from oaq_repro.run import Run
from oaq_repro.settings.identity import prepared_hash
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.video import AnyPrecisionTask, FrameNetwork, PolicyTask
from oaq_repro.training.checkpoints import torch_bytes
from oaq_repro.training.fine_tune import fine_tuning_folder
from oaq_repro.training.making import make_task
from oaq_repro.training.post_training import PostTraining, post_training
from oaq_repro.training.shared import Trained, train_or_load
from oaq_repro.training.stage import calibration_images, evaluate, fit

CHECKPOINT_NAME, EXAMPLES_NAME = "quantized.ckpt", "frames.npz"
EXAMPLES = 10
"""Held-out clips that are kept for a picture."""
CPU = torch.device("cpu")
TIMED = 50
Metrics = dict[Stage, dict[Metric, float]]


@dataclass
class Found:
    """What such a run adds to its record."""

    metrics: Metrics
    section: FramePrecision
    checkpoint_hash: str
    kernels: str


@dataclass
class Width:
    """The quantized network of one width, settled, and what is found with it."""

    network: QuantizedNetwork
    done: PostTraining
    metrics: Metrics = field(default_factory=dict)


def frame_precision(run: Run, method: VideoIQ, parent: Task) -> Found | None:
    """From the float parent, which `parent` has, to the record's section; None in a worker, which trains along."""
    assert isinstance(run.data, VideoData)
    network = method.make_any_precision(copy.deepcopy(parent.dense))
    stage1 = train_widths(run, method, network, parent)
    widths = {bits: quantized(run, method, network, bits) for bits in method.weights.widths}
    for key, value in stage1.metrics.items():
        bits, _, metric = key.partition(" ")
        widths[int(bits)].metrics.setdefault("soft", {})[metric] = value  # type: ignore[index]
    task = policy_task(run, method, {bits: width.network for bits, width in widths.items()}, parent)
    train_policy(run, method, task)
    if is_worker():
        return None
    return Deployment(run, method, task.cpu().eval(), widths).found()


def train_widths(run: Run, method: VideoIQ, network: nn.Module, parent: Task) -> Trained:
    """Stage 1: bring the network of several widths to its weights, training it when nobody has yet."""
    own = {"widths": method.weights.widths, "distillation": method.weights.distillation, "set_width": set_width}
    task = make_task(
        run, Network(network), "prepare", parent.dense, AnyPrecisionTask, temperature=1.0, **own
    )
    folder = training_folder(run.settings.results, "prepared", prepared_hash(run.settings, run.fingerprint), run.seed)

    def train() -> dict[str, float]:
        fit(run, task, folder, "prepare", f"all widths, {run.settings.method.kind}")
        found = {}
        for bits in method.weights.widths:
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
        if task.schedule is not None:
            fit(run, task, folder, "finetune", "policy")
        return {}

    return train_or_load(folder, task.dense, train)


class Kept(nn.Module):
    """A network whose outputs are kept."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.outputs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Its outputs."""
        self.outputs.append(self.network(images))
        return self.outputs[-1]


@dataclass
class Deployment:
    """Integer graphs of all widths, on held-out clips. task: has the policy, trained."""

    run: Run
    method: VideoIQ
    task: PolicyTask
    widths: dict[int, Width]

    def found(self) -> Found:
        """Graphs and checkpoint written, everything measured."""
        run, task = self.run, self.task
        state = {f"policy.{name}": value for name, value in task.dense.state_dict().items()}
        for bits, width in self.widths.items():
            state |= {f"frames.{bits}.{name}": value for name, value in width.network.state_dict().items()}
        write_atomic(run.folder / CHECKPOINT_NAME, torch_bytes({"state_dict": state}))
        metrics: Metrics = {"simulated": self._policy("simulated")}
        graphs, logits, engines = [], [], {}
        for bits, width in self.widths.items():
            graph, table, engines[bits] = self._graph(bits, width)
            graphs.append(graph)
            logits.append(table)
        for stage, modes in (("integer_int32", 0), ("integer", 1)):
            task.frames = {bits: pair[modes] for bits, pair in engines.items()}
            metrics[stage] = self._policy(stage)  # type: ignore[index]
        section = self._section(graphs, torch.stack(logits, 1))
        kernels = next(iter(engines.values()))[1].isa
        return Found(metrics, section, content_hash(state), kernels)

    def _policy(self, stage: str) -> dict[Metric, float]:
        """Metrics of the clips, every frame on the network that the policy chose."""
        found = evaluate(self.run, self.task, f"policy, {stage}, on held-out data", on_cpu=True)
        return dict(found)  # type: ignore[arg-type]

    def _graph(self, bits: int, width: Width) -> tuple[WidthGraph, Tensor, tuple["EngineFrames", "EngineFrames"]]:
        """One width: what the record says of it, logits of all held-out frames, and its engine in both modes."""
        run, shape = self.run, self.run.data.input_shape
        threads = run.settings.threads or torch.get_num_threads()
        graph = lower(width.network)
        graph.save(run.folder / f"graph-{bits}.npz")
        parent = None if self.task.parent is None else self.task.parent.dense.dense
        task = make_task(run, Network(width.network), "finetune", parent)
        simulation = Simulation(width.network)
        certified = CheckedEngine(graph, simulation, "certified", threads)
        fast = CheckedEngine(graph, simulation, "fast", threads)
        kept = Kept(fast)
        stages: tuple[tuple[Stage, nn.Module], ...] = (
            ("simulated", simulation), ("integer_int32", certified), ("integer", kept),
        )  # fmt: skip
        for stage, dense in stages:
            task.dense = dense
            width.metrics[stage] = evaluate(run, task, f"{bits} bits, {stage}", on_cpu=True)  # type: ignore[assignment]
        certified.check()
        fast.check()
        found = WidthGraph(
            bits=bits,
            metrics=width.metrics,  # type: ignore[arg-type]
            overflow=overflow_section(width.done.settled, simulation),  # type: ignore[arg-type]
            layers=layer_rows(fast, certified, shape),  # type: ignore[arg-type]
            cost=cost_section(width.network, shape),  # type: ignore[arg-type]
            latency_ms=latencies(graph, shape) if run.settings.latency else {},
        )
        return found, torch.cat(kept.outputs), (EngineFrames(certified), EngineFrames(fast))

    def _section(self, graphs: list[WidthGraph], logits: Tensor) -> FramePrecision:
        run, policy = self.run, self.task.dense
        assert isinstance(run.data, VideoData) and isinstance(policy, Policy)
        clips, labels, choices = self._choices(policy)
        timed = run.settings.latency
        policy_ms = policy_milliseconds(policy, clips[:1]) if timed else None
        policy_macs = policy.macs(run.data.input_shape)
        costs = FrameCosts(
            macs=graphs[0].cost.macs,
            bops={graph.bits: graph.cost.bops for graph in graphs},
            ms={graph.bits: graph.latency_ms["fast"] for graph in graphs} if timed else None,
            policy_macs=policy_macs,
            policy_bops=bit_operations(policy_macs, FLOAT_BITS, FLOAT_BITS),
            policy_ms=policy_ms,
        )
        known = run.data.kinds_of_frames()
        kinds = None if known is None else torch.from_numpy(known)
        widths = tuple(self.widths)
        table = logits.unflatten(0, choices.shape)
        self._examples(clips, labels, choices, kinds, table, widths)
        return FramePrecision(
            clips=len(choices),
            frames=choices.shape[1],
            widths=graphs,
            policy_macs=policy_macs,
            policy_ms=policy_ms,
            choices=Held(table, labels, choices, widths, kinds, costs).all(run.seed),
            by_kind={} if kinds is None else by_kind(choices, kinds, run.data.kinds, widths),
        )

    @torch.no_grad()
    def _choices(self, policy: Policy) -> tuple[Tensor, Tensor, Tensor]:
        """The first held-out clips, labels and the policy's choices of all."""
        shown: list[Tensor] = []
        labels, choices = [], []
        bar = self.run.settings.trainer.enable_progress_bar
        for clips, target in tqdm(self.run.data.val_dataloader(), "policy", leave=False, disable=not bar):
            if sum(map(len, shown)) < EXAMPLES:
                shown.append(clips)
            labels.append(target)
            choices.append(policy.choices(clips))
        return torch.cat(shown)[:EXAMPLES], torch.cat(labels), torch.cat(choices)

    def _examples(
        self, clips: Tensor, labels: Tensor, choices: Tensor, kinds: Tensor | None, logits: Tensor,
        widths: tuple[int, ...],
    ) -> None:  # fmt: skip
        """Keep some clips for a picture: pixels uint8 [N, T, H, W, C], bits (0: skipped) and kinds by frame."""
        data = self.run.data
        mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
        pixels = ((clips * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2)
        bits = torch.tensor([*widths, 0])[choices[: len(clips)]]
        arrays: dict[str, Any] = {"pixels": pixels.numpy(), "bits": bits.numpy()}
        arrays["labels"] = np.array([data.classes[int(label)] for label in labels[: len(clips)]])
        if kinds is not None:
            assert isinstance(data, VideoData)
            arrays["kinds"] = np.array(data.kinds)[kinds[: len(clips)].numpy()]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(self.run.folder / EXAMPLES_NAME, buffer.getvalue())


class EngineFrames:
    """Frames by the engine of one width, in the mode of a checked one, whose engine it shares."""

    def __init__(self, checked: CheckedEngine) -> None:
        self.checked = checked

    @property
    def isa(self) -> str:
        """Instruction set of the kernels."""
        (engine,) = self.checked._engines.values()
        return engine.isa

    def __call__(self, frames: Tensor) -> Tensor:
        """Logits of frames float32 [N, C, H, W]."""
        (logits,) = self.checked.engine(frames.shape[1:]).run(frames.contiguous().numpy())
        return torch.from_numpy(logits)


@torch.no_grad()
def policy_milliseconds(policy: Policy, clip: Tensor) -> float:
    """Median milliseconds per frame of a clip [1, T, C, H, W], on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(TIMED):
            start = time.perf_counter()
            policy.choices(clip)
            times.append(1e3 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return float(np.median(times)) / clip.shape[1]
