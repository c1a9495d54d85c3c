"""Made-up records with the shape of real ones. Their numbers mean nothing and never leave the tests."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from oaq_repro.results.record import Record
from oaq_repro.results.sections import Hardware, Layer, Overflow, Provenance

MakeRecord = Callable[..., Record]
SCIENCE = ("task", "data", "model", "method", "schedule", "quantization", "trainer")


def fake_config(**changes: Any) -> dict[str, Any]:
    """A resolved configuration; `changes` replace whole sections."""
    config: dict[str, Any] = {
        "seed": 0,
        "task": {"kind": "classification"},
        "data": {
            "kind": "cifar10",
            "root": "data",
            "num_workers": 2,
            "batch_size": 64,
            "seed": 0,
        },
        "model": {"kind": "classifier", "pretrained": False, "checkpoint": None},
        "method": {"kind": "oaq", "lr": 0.01},
        "accumulator": {"bits": 16, "overflow": "wrap", "lanes": 1, "block": None},
        "schedule": {"finetune": {"epochs": 2, "lr": 0.01}},
        "trainer": {"precision": "32-true", "accelerator": "auto", "devices": 1},
        "logger": {"wandb": None},
    }
    return config | changes


def science_of(config: dict[str, Any]) -> dict[str, Any]:
    """The sections that identify a run, without where and how fast its data are read."""
    sections = {key: value for key, value in config.items() if key in SCIENCE}
    return sections | {"data": {k: v for k, v in sections.get("data", {}).items() if k not in ("root", "num_workers")}}


def fake_layers(count: int, images: int, rng: random.Random) -> list[Layer]:
    """Layers with long names as detectors have them; early ones overflow rarely, the last use int32."""
    layers = []
    for i in range(count):
        last = i >= count - 1
        kind = "linear" if last else "depthwise" if i % 3 == 1 else "conv"
        alpha = 1.0 if i == 0 or last else rng.uniform(1.5, 1.9) if kind == "depthwise" else rng.uniform(1.4, 3.9)
        outputs = images * (1_000 if last else 16_384 // (1 + i // 6))
        events = 0 if last or i % 4 else int(10 ** rng.uniform(0, 4))
        name = f"backbone.features.{i // 3}.inverted_residual.{i % 3}.conv" if not last else "backbone.head.classifier"
        certified = last or rng.random() < 0.3
        layers.append(
            Layer(
                name=name,
                kind=kind,
                alpha_activation=alpha,
                alpha_weight=alpha * (1.0 if i % 5 else 1.15),
                bits_activation=math.log2(255 / alpha + 1),
                bits_weight=math.log2(254 / (alpha * (1.0 if i % 5 else 1.15)) + 1),
                overflow_seen=0 if certified else events,
                outputs=outputs,
                worst_case=rng.uniform(0.3, 1.0) if certified else rng.uniform(1.01, 9.0),
                certified=certified,
                longest_block=rng.randint(1, 64),
                accumulator="int32" if last else "int16",
                route="32 bit, certified" if last else "16 bit, empirical",
                route_certified="32 bit" if last else "16 bit x 8",
                reason="the classifier keeps int32" if last else None,
            )
        )
    return layers


def fake_record(
    layers: int = 22,
    seed: int = 0,
    hash: str = "0123456789abcdef",
    config: dict[str, Any] | None = None,
    metrics: dict[str, dict[str, float]] | None = None,
    status: str = "finished",
    error: str | None = None,
) -> Record:
    """A whole record; equal arguments give an equal record."""
    rng = random.Random(seed)
    images, settle_images = 1_000, 4_000
    rows = fake_layers(layers, images, rng)
    values = metrics or {
        "float": {"top1": 0.7251},
        "simulated": {"top1": 0.7239},
        "integer_int32": {"top1": 0.7238},
        "integer": {"top1": 0.7236},
    }
    return Record.model_validate(
        {
            "hash": hash,
            "seed": seed,
            "status": status,
            "config": config if config is not None else fake_config(seed=seed),
            "science": science_of(config if config is not None else fake_config(seed=seed)),
            "metrics": values,
            "overflow": Overflow(
                settle={layer.name: layer.overflow_seen // 50 for layer in rows},
                evaluation={layer.name: layer.overflow_seen for layer in rows},
                images_affected=37,
                images=images,
                outputs={layer.name: layer.outputs for layer in rows},
                settle_images=settle_images,
                settle_outputs={layer.name: layer.outputs * settle_images // images for layer in rows},
            ),
            "layers": rows,
            "cost": {"macs": 10**8, "bops": 64 * 10**8, "bops_qap": 6.5e9, "weight_bytes": 2.5e6, "density": 0.75},
            "latency_ms": {"fast": 10.0, "certified": 12.5},
            "swapped": [layer.name for layer in rows],
            "left_float": [],
            "provenance": Provenance(
                git_revision="0" * 40,
                git_dirty=False,
                packages={"python": "3.11.0"},
                dataset="made up",
                dataset_fingerprint="f" * 64,
                hardware=Hardware(cpu="some processor", cores=2, memory_gib=8.0, gpu=None),
                wall_time_s=61.5,
                started="2024-01-01T00:00:00+00:00",
                error=error,
            ),
        }
    )


@pytest.fixture
def make_record() -> MakeRecord:
    """Factory of made-up records."""
    return fake_record


@pytest.fixture
def make_config() -> Callable[..., dict[str, Any]]:
    """Factory of made-up configurations."""
    return fake_config
