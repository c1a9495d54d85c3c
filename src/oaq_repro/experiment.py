"""The way of one run: data, float parent, quantization, fine-tuning, settling, integer graph, record.

Every step is a function that can be called alone; `run` is the one that calls them all.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from oaq_repro.configuration import build
from oaq_repro.data.base import DataModule
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer.latency import latencies
from oaq_repro.integer.lower import lower
from oaq_repro.integer.network import IntegerNetwork
from oaq_repro.integer.routes import Mode
from oaq_repro.logging import make_loggers
from oaq_repro.methods.base import Method
from oaq_repro.models.network import Network
from oaq_repro.parent import train_or_load
from oaq_repro.quant.calibrate import SettleReport, calibrate, count_overflow, freeze, settle
from oaq_repro.quant.config import QuantizationConfig
from oaq_repro.quant.convert import quantize_network
from oaq_repro.quant.network import QuantizedNetwork, set_quantizing
from oaq_repro.report import layer_rows, overflow_section
from oaq_repro.results.figures import write_figures
from oaq_repro.results.provenance import provenance, utc_now
from oaq_repro.results.record import RECORD_NAME, Record, Status, save_record
from oaq_repro.results.store import file_hash, find_record, lock_run, run_folder, run_hash
from oaq_repro.results.terminal import print_record
from oaq_repro.tasks.base import Task
from oaq_repro.training import LAST, evaluate, fit, images_of

GRAPH_NAME, CHECKPOINT_NAME = "graph.npz", "quantized.ckpt"


@dataclass
class Outcome:
    """What a run has found so far; the record is made of it, also when the run ends early."""

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    sections: dict[str, Any] = field(default_factory=dict)
    parent_hash: str | None = None
    checkpoint_hash: str | None = None


def run(config: DictConfig) -> Record:
    """One run from its configuration to its record; a finished one is only shown again.

    Raises InputError for bad input (also recorded as a failed run) and passes on interruptions (recorded too).
    """
    settings = resolve(config)
    pl.seed_everything(settings["seed"], workers=True, verbose=False)
    data: DataModule = build(config.data, "data")
    check_task(settings, data)
    data.prepare_data()
    data.setup()
    fingerprint = data.fingerprint()
    name, seed = run_hash(settings, fingerprint), settings["seed"]
    folder = run_folder(settings["results"], name, seed)
    done = find_record(settings["results"], name, seed)
    if done is None or done.status != "finished":
        with lock_run(folder):
            done = _recorded(settings, config, data, fingerprint, name, folder)
    else:
        print(f"{folder}: finished earlier; nothing is trained again")
    print_record(done)
    print(f"Record, checkpoint, integer graph and figures: {folder}")
    return done


def headline(record: Record) -> float | None:
    """The headline metric of the last stage a run has reached."""
    for stage in ("integer", "simulated", "float"):
        if stage in record.metrics:
            return record.metrics[stage][record.metric_names[0]]
    return None


def resolve(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolations resolved; InputError where one cannot be."""
    try:
        settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
    assert isinstance(settings, dict)
    settings.pop("hydra", None)
    if HydraConfig.initialized():  # names of the config files, for the tables
        settings["choices"] = {k: v for k, v in HydraConfig.get().runtime.choices.items() if "/" not in k}
    return {str(key): value for key, value in settings.items()}


def check_task(settings: Mapping[str, Any], data: DataModule) -> None:
    """InputError where the data are of another task."""
    if data.task != settings["task"]["name"]:
        raise InputError(
            f"data: found data for {data.task} with task={settings['task']['name']}; expected task={data.task}"
        )


def _recorded(
    settings: dict[str, Any], config: DictConfig, data: DataModule, fingerprint: str, name: str, folder: Path
) -> Record:
    """Run and write the record, whatever happens."""
    outcome, started, clock = Outcome(), utc_now(), time.monotonic()

    def write(status: Status, error: str | None) -> Record:
        record = Record(
            hash=name,
            seed=settings["seed"],
            status=status,
            config=settings,
            metrics=outcome.metrics,  # type: ignore[arg-type]
            **outcome.sections,
            provenance=provenance(
                dataset=type(data).__name__,
                dataset_fingerprint=fingerprint,
                started=started,
                wall_time_s=time.monotonic() - clock,
                parent_hash=outcome.parent_hash,
                checkpoint_hash=outcome.checkpoint_hash,
                error=error,
            ),
        )
        save_record(record, folder / RECORD_NAME)
        return record

    try:
        _stages(settings, config, data, fingerprint, folder, outcome)
    except BaseException as error:
        status: Status = "failed" if isinstance(error, Exception) else "interrupted"
        with suppress(InputError):  # a full disk must not hide the first error
            write(status, str(error) or type(error).__name__)
        raise
    record = write("finished", None)
    if record.layers:
        write_figures(record, folder)
    return record


def _stages(
    settings: dict[str, Any], config: DictConfig, data: DataModule, fingerprint: str, folder: Path, outcome: Outcome
) -> None:
    method: Method = build(config.method, "method")
    network: Network = build(config.model, "model", num_classes=len(data.classes), input_shape=data.input_shape)

    float_task = make_task(config, network, data, "float")
    parent = train_or_load(settings, data, float_task, fingerprint)
    outcome.parent_hash, outcome.metrics["float"] = parent.hash, parent.metrics
    if not method.quantizes:
        return

    quantization: QuantizationConfig = build(config.quantization, "quantization")
    quantized = quantize_network(float_task.dense, method, quantization)
    outcome.sections["swapped"] = [f"{name}: {old} -> {new}" for name, old, new in quantized.swapped]
    outcome.sections["left_float"] = list(quantized.left_float)
    print(f"Quantized {len(quantized.swapped)} modules; left in float: {', '.join(quantized.left_float) or 'none'}")

    task = make_task(config, Network(quantized, network.codec), data, "finetune")
    settled = fine_tune(settings, data, task, method, quantization, folder)
    task.cpu().eval()  # the stages below are exact on any machine; the integer graph runs on the CPU
    write_atomic(folder / CHECKPOINT_NAME, lambda path: torch.save({"state_dict": task.state_dict()}, path))
    outcome.checkpoint_hash = file_hash(folder / CHECKPOINT_NAME)
    cpu = {**settings["trainer"], "accelerator": "cpu", "devices": 1, "strategy": "auto", "num_nodes": 1}

    outcome.metrics["simulated"] = evaluate(task, data.val_dataloader(), cpu, "simulated on held-out data")
    if quantized.left_float:
        print("No integer stages: some layers were left in float on request")
        return
    graph = lower(quantized)
    graph.save(folder / GRAPH_NAME)
    threads = settings["threads"] or torch.get_num_threads()
    stages: tuple[tuple[str, Mode], ...] = (("integer_int32", "certified"), ("integer", "fast"))
    for stage, mode in stages:
        integer = IntegerNetwork(graph, quantized, mode, threads)
        outcome.metrics[stage] = evaluate_integer(integer, quantized, task, data, cpu)
    outcome.sections["overflow"] = overflow_section(settled, integer.report)
    outcome.sections["layers"] = layer_rows(graph, quantized, integer.report, data.input_shape)
    outcome.sections["latency_ms"] = latencies(graph, data.input_shape)


def make_task(config: DictConfig, network: Network, data: DataModule, stage: str) -> Task:
    """The LightningModule of one stage (`float` or `finetune`)."""
    section = config.schedule.get(stage)
    schedule = None if section is None else build(section, f"schedule.{stage}")
    fields = {key: value for key, value in config.task.items() if key != "name"}
    return build(fields, "task")(network=network, schedule=schedule, classes=data.classes)


def fine_tune(
    settings: dict[str, Any],
    data: DataModule,
    task: Task,
    method: Method,
    quantization: QuantizationConfig,
    folder: Path,
) -> SettleReport:
    """Calibrate, fine-tune, freeze and settle `task.dense`; goes on where an earlier attempt was interrupted.

    Returns what settling did; without settling, the overflow counted on the same images.
    """
    quantized: QuantizedNetwork = task.dense  # type: ignore[assignment]
    loader = data.calibration_dataloader()

    def images(batches: int | None, description: str) -> Iterator[Tensor]:
        return images_of(loader, task.device, batches, settings["trainer"], description)

    if (folder / LAST).exists():
        set_quantizing(quantized, True)
    else:
        calibrate(quantized, images(quantization.calibration_batches, "calibrating"))
        method.start(quantized)
    if method.fine_tune and task.schedule is not None:
        task.penalty = method.penalty
        loggers = make_loggers(settings["logger"], folder, "finetune", settings)
        fit(
            task,
            task.schedule,
            data,
            folder,
            settings["trainer"],
            settings["seed"],
            loggers,
            method.callbacks(),
            description=f"fine-tuning {settings['method']['_target_'].rpartition('.')[2]}",
        )
    freeze(quantized)
    method.finish(quantized)
    settling = method.settle is not None
    return settle_or_count(quantized, method, lambda n: images(n, "settling" if settling else "counting overflow"))


def settle_or_count(quantized: QuantizedNetwork, method: Method, images: Callable[[int | None], Any]) -> SettleReport:
    """Settle by the method's configuration, or only count overflow where it has none."""
    if method.settle is not None:
        return settle(quantized, lambda: images(method.settle.batches), method.settle)  # type: ignore[union-attr]
    report = SettleReport()
    report.see(count_overflow(quantized, images(None)))
    return report


def evaluate_integer(
    integer: IntegerNetwork,
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
