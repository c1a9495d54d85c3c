"""Integer graphs of all widths, held-out clips on them as a policy chose, and what the record says of it all."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path
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
from oaq_repro.frames.controls import SKIPPED, FrameCosts, Held, by_kind
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.latency import latencies
from oaq_repro.models.checkpoint import content_hash
from oaq_repro.models.network import Network
from oaq_repro.models.policy import Policy
from oaq_repro.quant.mixed_precision.cost import FLOAT_BITS, bit_operations
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.results.frame_sections import FramePrecision, WidthGraph
from oaq_repro.results.precision_figure import EXAMPLES_NAME
from oaq_repro.run import Run
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.video import FrameNetwork, PolicyTask
from oaq_repro.training.checkpoints import torch_bytes
from oaq_repro.training.making import make_task
from oaq_repro.training.post_training import PostTraining
from oaq_repro.training.stage import evaluate

CHECKPOINT_NAME = "quantized.ckpt"
EXAMPLES = 10
"""Held-out clips that are kept for a picture."""
TIMED = 50
Metrics = dict[str, dict[str, float]]
"""By the record's stages."""


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
    """Integer graphs of all widths, on held-out clips.

    task: has the policy, trained. parent: the float network. folder: of the policy's training.
    """

    run: Run
    task: PolicyTask
    parent: Task
    widths: dict[int, Width]
    folder: Path

    def found(self) -> Found:
        """Graphs and checkpoint written, everything measured."""
        run, task = self.run, self.task
        state = {f"policy.{name}": value for name, value in task.dense.state_dict().items()}
        for bits, width in self.widths.items():
            state |= {f"frames.{bits}.{name}": value for name, value in width.network.state_dict().items()}
        write_atomic(run.folder / CHECKPOINT_NAME, torch_bytes({"state_dict": state}))
        metrics: Metrics = {"simulated": self._policy("simulated")}
        graphs, logits = [], []
        engines: dict[int, tuple[Engine, Engine]] = {}
        for bits, width in self.widths.items():
            graph, table, engines[bits] = self._graph(bits, width)
            graphs.append(graph)
            logits.append(table)
        for mode, stage in enumerate(("integer_int32", "integer")):
            task.frames = {bits: by_engine(pair[mode]) for bits, pair in engines.items()}
            metrics[stage] = self._policy(stage)
        section = self._section(graphs, torch.stack(logits, 1))
        (_, fast), *_ = engines.values()
        return Found(metrics, section, content_hash(state), fast.isa)

    def _policy(self, stage: str) -> dict[str, float]:
        """Metrics of the clips, every frame on the network that the policy chose."""
        return evaluate(self.run, self.task, f"policy, {stage}, on held-out data", on_cpu=True)

    def _graph(self, bits: int, width: Width) -> tuple[WidthGraph, Tensor, tuple[Engine, Engine]]:
        """One width: what the record says of it, logits of all held-out frames, and its engines."""
        run, shape = self.run, self.run.data.input_shape
        threads = run.settings.threads or torch.get_num_threads()
        graph = lower(width.network)
        graph.save(run.folder / f"graph-{bits}.npz")
        task = make_task(run, Network(width.network), "finetune", self.parent.dense)
        simulation = Simulation(width.network)
        certified = CheckedEngine(graph, simulation, "certified", threads)
        fast = CheckedEngine(graph, simulation, "fast", threads)
        kept = Kept(fast)
        stages = (("simulated", simulation), ("integer_int32", certified), ("integer", kept))
        for stage, dense in stages:
            task.dense = dense
            width.metrics[stage] = evaluate(run, task, f"{bits} bits, {stage}", on_cpu=True)
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
        return found, torch.cat(kept.outputs), (certified.engine(shape), fast.engine(shape))

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
        self._examples(clips, labels, choices, kinds)
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

    def _examples(self, clips: Tensor, labels: Tensor, choices: Tensor, kinds: Tensor | None) -> None:
        """Keep some clips for a picture: pixels uint8 [N, T, H, W, C], bits (0: skipped) and kinds by frame."""
        data = self.run.data
        mean, std = (torch.tensor(x)[:, None, None] for x in (data.mean, data.std))
        pixels = ((clips * std + mean).clamp(0, 1) * 255).round().byte().permute(0, 1, 3, 4, 2)
        bits = torch.tensor([*self.widths, SKIPPED])[choices[: len(clips)]]
        arrays: dict[str, Any] = {"pixels": pixels.numpy(), "bits": bits.numpy()}
        arrays["labels"] = np.array([data.classes[int(label)] for label in labels[: len(clips)]])
        if kinds is not None:
            assert isinstance(data, VideoData)
            arrays["kinds"] = np.array(data.kinds)[kinds[: len(clips)].numpy()]
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(self.run.folder / EXAMPLES_NAME, buffer.getvalue())


def by_engine(engine: Engine) -> FrameNetwork:
    """Frames on an integer engine."""

    def run(frames: Tensor) -> Tensor:
        (logits,) = engine.run(frames.contiguous().numpy())
        return torch.from_numpy(logits)

    return run


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
