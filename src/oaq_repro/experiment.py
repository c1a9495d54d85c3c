"""The way of one run: data, float parent, quantization, fine-tuning, settling, integer graph, record.

Every step is a function that can be called alone; `run` is the one that calls them all.
"""

import copy
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import distributed, nn

from oaq_repro.data.base import DataModule
from oaq_repro.deploy.checked_engine import CheckedEngine
from oaq_repro.deploy.lower import lower
from oaq_repro.deploy.record_sections import layer_rows, overflow_section
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer.engine.latency import latencies
from oaq_repro.methods.base import Method
from oaq_repro.models.checkpoint import content_hash
from oaq_repro.models.network import Network
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork
from oaq_repro.results.figures import write_figures
from oaq_repro.results.finished import remember
from oaq_repro.results.provenance import provenance, utc_now
from oaq_repro.results.record import RECORD_NAME, Record, Status, save_record
from oaq_repro.results.store import LONG_S, find_record, is_worker, lock_run, run_folder, say_early
from oaq_repro.settings.composing import resolve
from oaq_repro.settings.identity import hash_of, science
from oaq_repro.settings.schema import build, build_part, check
from oaq_repro.signals import arrived, interruption
from oaq_repro.tasks.base import Task
from oaq_repro.tasks.schedule import Schedule
from oaq_repro.training.checkpoints import torch_bytes
from oaq_repro.training.fine_tune import fine_tune
from oaq_repro.training.loggers import log_record
from oaq_repro.training.parent import float_parent
from oaq_repro.training.post_training import post_training
from oaq_repro.training.stage import check_devices, evaluate, torch_threads

GRAPH_NAME, CHECKPOINT_NAME = "graph.npz", "quantized.ckpt"


@dataclass
class Outcome:
    """What a run has found so far; the record is made of it, also when the run ends early."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    parent_hash: str | None = None
    checkpoint_hash: str | None = None
    kernels: str | None = None


def run(config: DictConfig, wait: bool = True) -> Record:
    """One run from its configuration to its record; a finished one is only read again.

    Where another process works on the same run, waits for it, or without `wait` raises BusyError. Raises InputError for
    bad input (also recorded as a failed run) and passes on interruptions (recorded too).
    """
    composed = resolve(config)
    settings = check(composed)
    check_devices(settings["trainer"])
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data: DataModule = build("data", settings["data"])
    data.prepare_data()
    data.setup()
    fingerprint = data.fingerprint()
    found = science(settings)
    name, seed = hash_of(found, fingerprint), settings["seed"]
    remember(composed, name)
    folder = run_folder(settings["results"], name, seed)
    with torch_threads(settings["threads"]), lock_run(folder, LONG_S if wait else 0.0):
        done = find_record(settings["results"], name, seed)
        if done is not None and done.status == "finished":
            return done
        say_early(settings["results"])
        return _recorded(settings, found, data, fingerprint, name, folder)


def _recorded(
    settings: dict[str, Any], found: dict[str, Any], data: DataModule, fingerprint: str, name: str, folder: Path
) -> Record:
    """Run and write the record, whatever happens."""
    outcome, started, clock = Outcome(), utc_now(), time.monotonic()
    if is_worker():
        _stages(settings, data, fingerprint, folder, outcome)
        sys.exit(0)  # the first process writes the record

    def record_as(status: Status, error: str | None) -> Record:
        return Record(
            hash=name,
            seed=settings["seed"],
            status=status,
            config=settings,
            science=found,
            metrics=outcome.metrics,  # type: ignore[arg-type]
            **outcome.sections,
            provenance=provenance(
                dataset=type(data).__name__,
                dataset_fingerprint=fingerprint,
                started=started,
                wall_time_s=time.monotonic() - clock,
                parent_hash=outcome.parent_hash,
                checkpoint_hash=outcome.checkpoint_hash,
                kernels=outcome.kernels,
                error=error,
            ),
        )

    try:
        _stages(settings, data, fingerprint, folder, outcome)
        record = record_as("finished", None)
        write_figures(record, folder)
        save_record(record, folder / RECORD_NAME)  # last: it says all is there
    except BaseException as error:
        cause = interruption(error) or error
        arrived()
        status: Status = "failed" if isinstance(cause, Exception) else "interrupted"
        with suppress(InputError, ValueError):  # a full disk must not hide the first error
            save_record(record_as(status, str(cause) or type(cause).__name__), folder / RECORD_NAME)
        raise
    log_record(settings, record, folder)
    return record


def _stages(settings: dict[str, Any], data: DataModule, fingerprint: str, folder: Path, outcome: Outcome) -> None:
    method: Method = build("method", settings["method"])
    known = {"num_classes": len(data.classes), "input_shape": data.input_shape}
    network: Network = build("model", settings["model"], **known)

    float_task = make_task(settings, network, data, "float")
    parent = float_parent(settings, data, float_task, fingerprint)
    outcome.parent_hash, outcome.metrics["float"] = parent.hash, parent.metrics
    if not method.quantizes:
        return

    quantization: QuantizationConfig = build_part(QuantizationConfig, settings["quantization"], "quantization")
    quantized = quantize_network(float_task.dense, method, quantization, data.input_shape)
    outcome.sections["swapped"] = [f"{name}: {old} -> {new}" for name, old, new in quantized.swapped]
    outcome.sections["left_float"] = list(quantized.left_float)
    reference = copy.deepcopy(quantized) if method.bias_correction else None

    task = make_task(settings, Network(quantized, network.codec), data, "finetune", float_task.dense)
    trained = fine_tune(settings, data, task, method, quantization.calibration_batches, fingerprint)
    part_from_workers()
    keep_curves(trained.folder, folder)
    task.cpu().eval()  # the stages below are exact on any machine; the integer graph runs on the CPU
    settled, corrected = post_training(quantized, reference, method, data, settings["trainer"])
    state = task.state_dict()
    write_atomic(folder / CHECKPOINT_NAME, torch_bytes({"state_dict": state}))
    outcome.checkpoint_hash = content_hash(state)
    cpu = {**settings["trainer"], "accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}

    outcome.metrics["simulated"] = evaluate(task, data.val_dataloader(), cpu, "simulated on held-out data")
    if quantized.left_float:
        return
    graph = lower(quantized)
    graph.save(folder / GRAPH_NAME)
    threads = settings["threads"] or torch.get_num_threads()
    certified = CheckedEngine(graph, quantized, "certified", threads)
    fast = CheckedEngine(graph, quantized, "fast", threads)
    outcome.kernels = fast.engine(data.input_shape).isa
    for stage, integer in (("integer_int32", certified), ("integer", fast)):
        outcome.metrics[stage] = evaluate_integer(integer, quantized, task, data, cpu)
    outcome.sections["overflow"] = overflow_section(settled, fast.report)
    outcome.sections["layers"] = layer_rows(fast, certified, data.input_shape, corrected)
    if settings["latency"]:
        outcome.sections["latency_ms"] = latencies(graph, data.input_shape)


def part_from_workers() -> None:
    """After distributed training the first process goes on alone; the others end here."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()
    if is_worker():
        sys.exit(0)


def make_task(
    settings: Mapping[str, Any], network: Network, data: DataModule, stage: str, parent: nn.Module | None = None
) -> Task:
    """The LightningModule of one stage (`float` or `finetune`); `parent`: the float network, which may teach it."""
    section = settings["schedule"].get(stage)
    schedule = None if section is None else build_part(Schedule, section, f"schedule.{stage}")
    given = {"network": network, "schedule": schedule, "classes": data.classes, "parent": parent}
    return build("task", settings["task"], **given)


def keep_curves(source: Path, folder: Path) -> None:
    """Copy the training curves of a shared fine-tuning into the folder of a run."""
    for metrics in source.glob("finetune*/metrics.csv"):
        write_atomic(folder / metrics.relative_to(source), metrics.read_bytes())


def evaluate_integer(
    integer: CheckedEngine,
    quantized: QuantizedNetwork,
    task: Task,
    data: DataModule,
    trainer_config: Mapping[str, Any],
) -> dict[str, float]:
    """Held-out metrics of the integer engine, every image compared with the simulation bit for bit."""
    task.dense = integer
    try:
        metrics = evaluate(task, data.val_dataloader(), trainer_config, f"integer, {integer.mode}, on held-out data")
    finally:
        task.dense = quantized
    integer.check()
    return metrics
