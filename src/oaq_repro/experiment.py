"""The way of one run: data, float parent, quantization, fine-tuning, settling, integer graph, record.

Every step is a function that can be called alone; `run` is the one that calls them all.
"""

import copy
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed

from oaq_repro.bit_search import assigned, with_bits
from oaq_repro.deploy.checked_engine import CheckedEngine, Simulation
from oaq_repro.deploy.lower import lower
from oaq_repro.deploy.record_sections import cost_section, file_bytes, layer_rows, overflow_section, pruning_section
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.frames.graphs import Deployment
from oaq_repro.frames.precision import trained_precisions
from oaq_repro.integer.engine.latency import latencies
from oaq_repro.methods.base import Method
from oaq_repro.methods.videoiq import VideoIQ
from oaq_repro.models.checkpoint import content_hash
from oaq_repro.models.network import Network
from oaq_repro.quant.conversion.convert import quantize_network
from oaq_repro.quant.network import without_integer_form
from oaq_repro.results.figures import write_figures
from oaq_repro.results.finished import remember
from oaq_repro.results.provenance import provenance, utc_now
from oaq_repro.results.record import RECORD_NAME, Record, Status, save_record
from oaq_repro.results.store import LONG_S, find_record, is_worker, lock_run, say_early
from oaq_repro.run import Run
from oaq_repro.settings.schema import build, read
from oaq_repro.signals import arrived, interruption
from oaq_repro.tasks.base import Task
from oaq_repro.training.checkpoints import torch_bytes
from oaq_repro.training.fine_tune import fine_tune
from oaq_repro.training.images import with_made_images
from oaq_repro.training.loggers import log_record
from oaq_repro.training.making import make_task
from oaq_repro.training.parent import float_parent
from oaq_repro.training.post_training import PostTraining, post_training
from oaq_repro.training.prepare import prepare
from oaq_repro.training.stage import check_devices, check_length, evaluate, torch_threads

GRAPH_NAME, CHECKPOINT_NAME = "graph.npz", "quantized.ckpt"


@dataclass
class Outcome:
    """What a run has found so far; the record is made of it, also when the run ends early."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    parent_hash: str | None = None
    checkpoint_hash: str | None = None
    kernels: str | None = None
    started: str = field(default_factory=utc_now)
    clock: float = field(default_factory=time.monotonic)

    def record(self, run: Run, status: Status, error: str | None = None) -> Record:
        """The record of a run that ends now."""
        return Record(
            hash=run.hash,
            seed=run.seed,
            status=status,
            config=run.settings.model_dump(mode="json"),
            science=run.science,
            metrics=self.metrics,  # type: ignore[arg-type]
            **self.sections,
            provenance=provenance(
                dataset=type(run.data).__name__,
                dataset_fingerprint=run.fingerprint,
                started=self.started,
                wall_time_s=time.monotonic() - self.clock,
                parent_hash=self.parent_hash,
                checkpoint_hash=self.checkpoint_hash,
                kernels=self.kernels,
                error=error,
            ),
        )


def run(composed: Mapping[str, Any], wait: bool = True) -> Record | None:
    """One run from its configuration (`settings.composing.resolve`) to its record; a finished one is only read again.

    None in a worker process, for which the first process writes the record. Where another process works on the same
    run, waits for it, or without `wait` raises BusyError. Raises InputError for bad input (also recorded as a failed
    run) and passes on interruptions (recorded too).
    """
    settings = read(composed)
    check_devices(settings.trainer)
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    run = Run.prepared(settings)
    remember(composed, run.hash)
    with torch_threads(settings.threads), lock_run(run.folder, LONG_S if wait else 0.0):
        done = find_record(settings.results, run.hash, run.seed)
        if done is not None and done.status == "finished":
            return done
        say_early(settings.results)
        if is_worker():
            stages(run, Outcome())
            return None
        return _recorded(run)


def _recorded(run: Run) -> Record:
    """Run and write the record, whatever happens."""
    outcome = Outcome()
    try:
        stages(run, outcome)
        record = outcome.record(run, "finished")
        write_figures(record, run.folder)
        save_record(record, run.folder / RECORD_NAME)  # last: it says all is there
    except BaseException as error:
        cause = interruption(error) or error
        arrived()
        status: Status = "failed" if isinstance(cause, Exception) else "interrupted"
        with suppress(InputError, ValueError):  # a full disk must not hide the first error
            save_record(outcome.record(run, status, str(cause) or type(cause).__name__), run.folder / RECORD_NAME)
        raise
    log_record(run.settings, record, run.folder)
    return record


def stages(run: Run, outcome: Outcome) -> None:
    """From the data to the figures of the record, which are left in `outcome`; a worker returns after training."""
    method: Method = build("method", run.settings.method)
    own = ["prepare"] * method.has_preparation + ["finetune"] * (method.quantizes and method.fine_tune)
    check_length(run, "float", *own)
    network: Network = build(
        "model", run.settings.model, num_classes=len(run.data.classes), input_shape=run.data.input_shape
    )
    untrained = copy.deepcopy(network) if method.has_preparation else None
    float_task = make_task(run, network, "float")
    parent = float_parent(run, float_task)
    outcome.parent_hash, outcome.metrics["float"] = parent.hash, parent.metrics
    if isinstance(method, VideoIQ):
        precisions = trained_precisions(run, method, float_task)
        end_of_training()
        if not is_worker():
            deploy_precisions(run, precisions, outcome)
        return
    source, folder = float_task, parent.folder
    if untrained is not None:
        source, folder = prepared(run, make_task(run, untrained, "prepare"), method, outcome)
    if method.quantizes:
        quantized(run, method, source, folder, float_task, outcome)
    else:
        outcome.sections["cost"] = cost_section(source.dense.eval(), run.data.input_shape)


def prepared(run: Run, task: Task, method: Method, outcome: Outcome) -> tuple[Task, Path]:
    """Train what the method has before batch norm is folded: in place of the float parent, its task and folder."""
    done = prepare(run, task, method)
    outcome.metrics |= done.metrics
    if method.pruning is not None:
        outcome.sections["pruning"] = pruning_section(task.dense, method.pruning, done.efficiency)
    return task, done.folder


def quantized(run: Run, method: Method, source: Task, folder: Path, float_task: Task, outcome: Outcome) -> None:
    """Quantize the network of `source`, which was trained in `folder`; fine-tune, settle and deploy it."""
    run = with_made_images(run, source.dense, folder)
    config = run.settings.quantization
    if method.search is not None:
        outcome.sections["assignment"] = found = assigned(run, source, method, folder)
        config = with_bits(config, {layer.name: layer.bits for layer in found.layers})
    dense = quantize_network(source.dense, method, config, run.data.input_shape)
    outcome.sections["swapped"] = [f"{name}: {old} -> {new}" for name, old, new in dense.swapped]
    outcome.sections["left_float"] = list(dense.left_float)
    reference = copy.deepcopy(dense) if method.bias_correction else None
    task = make_task(run, Network(dense, float_task.codec), "finetune", float_task.dense)
    trained = fine_tune(run, task, method)
    end_of_training()
    if is_worker():
        return

    keep_curves(trained.folder, run.folder)
    task.cpu().eval()  # the stages below are exact on any machine; the integer graph runs on the CPU
    done = post_training(run, dense, method, reference)
    state = task.state_dict()
    write_atomic(run.folder / CHECKPOINT_NAME, torch_bytes({"state_dict": state}))
    outcome.checkpoint_hash = content_hash(state)
    outcome.sections["cost"] = cost_section(dense, run.data.input_shape)
    task.dense = simulation = Simulation(dense)
    outcome.metrics["simulated"] = evaluate(run, task, "simulated on held-out data", on_cpu=True)
    outcome.sections["simulated_only"] = without_integer_form(dense)
    if not outcome.sections["simulated_only"]:
        deploy(run, simulation, task, done, outcome)


def deploy(run: Run, simulation: Simulation, task: Task, done: PostTraining, outcome: Outcome) -> None:
    """Lower to an integer graph, run it on the held-out data in both modes, and say what was seen."""
    graph = lower(simulation.network)
    graph.save(run.folder / GRAPH_NAME)
    outcome.sections["cost"]["weight_bytes_file"] = file_bytes(graph)
    threads = run.settings.threads or torch.get_num_threads()
    certified = CheckedEngine(graph, simulation, "certified", threads)
    fast = CheckedEngine(graph, simulation, "fast", threads)
    outcome.kernels = fast.engine(run.data.input_shape).isa
    for stage, integer in (("integer_int32", certified), ("integer", fast)):
        task.dense = integer
        outcome.metrics[stage] = evaluate(run, task, f"integer, {integer.mode}, on held-out data", on_cpu=True)
        integer.check()
    outcome.sections["overflow"] = overflow_section(done.settled, simulation)
    outcome.sections["layers"] = layer_rows(fast, certified, run.data.input_shape, done.bias_shifts)
    if run.settings.latency:
        outcome.sections["latency_ms"] = latencies(graph, run.data.input_shape)


def deploy_precisions(run: Run, precisions: Deployment, outcome: Outcome) -> None:
    """Lower the network of every width, and run each held-out frame on the one that the policy chose."""
    keep_curves(precisions.folder, run.folder)
    found = precisions.found()
    outcome.metrics |= found.metrics
    outcome.sections["frame_precision"] = found.section
    outcome.checkpoint_hash, outcome.kernels = found.checkpoint_hash, found.kernels


def end_of_training() -> None:
    """Processes that trained together wait for each other and part; only the first goes on."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def keep_curves(source: Path, folder: Path) -> None:
    """Copy the training curves of a shared fine-tuning into the folder of a run."""
    for metrics in source.glob("finetune*/metrics.csv"):
        write_atomic(folder / metrics.relative_to(source), metrics.read_bytes())
