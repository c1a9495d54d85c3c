"""The demo networks of all tasks, trained for a few steps: reference, engine and ONNX Runtime give equal integers."""

import numpy as np
import pytest
from composing import settings_of

from oaq_repro.accumulator import NAMED
from oaq_repro.experiment import run
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.onnx.exporter import export_onnx
from oaq_repro.integer.onnx.importer import import_onnx
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference
from oaq_repro.results.store import run_folder
from oaq_repro.settings.schema import build

pytestmark = pytest.mark.slow


def events_per_image(execution):
    """Overflow events of all layers together."""
    return np.sum(list(execution.events.values()), axis=0)


@pytest.mark.parametrize("method, requantization", [("oaq", "float32"), ("int8", "dyadic"), ("oaq", "fixed16")])
@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_three_ways_to_the_same_integers(task, method, requantization, tmp_path):
    config = settings_of(
        f"task={task}", f"method={method}", f"requantization={requantization}", f"results={tmp_path}",
        "data.subset=32", "data.val_subset=8",
        "data.batch_size=8", "schedule.float.epochs=null", "schedule.float.steps=8", "schedule.float.warmup_steps=1",
        "schedule.finetune.epochs=null", "schedule.finetune.steps=4", "schedule.finetune.warmup_steps=1",
        "schedule.controller_interval=1", "trainer.enable_progress_bar=false", "quantization.calibration_batches=2",
        "threads=1",
    )  # fmt: skip
    record = run(config)
    assert record.latency_ms.keys() == set(MODES)
    for layer in record.layers[1:-1]:  # a network of a few steps has layers that settling gives 32 bits
        replaced = requantization == "fixed16" and layer.accumulator == "int32"
        assert layer.requantization == ("dyadic" if replaced else requantization), layer
    assert sum(layer.requantization == requantization for layer in record.layers) > 0.8 * len(record.layers)
    graph = Graph.load(run_folder(str(tmp_path), record.hash, record.seed) / "graph.npz")
    data = build("data", record.config["data"])
    data.prepare_data()
    data.setup()
    images = next(iter(data.val_dataloader()))[0].numpy()

    exact = Reference(graph.with_accumulator(NAMED["int32"])).run(images).outputs
    narrow = Reference(graph).run(images)
    for mode in MODES:
        for found, wanted in zip(
            Engine(graph, data.input_shape, 1, mode).run(images),
            narrow.outputs if mode == "fast" else exact,
            strict=True,
        ):
            np.testing.assert_array_equal(found, wanted, err_msg=mode)
    assert int((events_per_image(narrow) > 0).sum()) == record.overflow.images_affected
    settle_set = np.concatenate([images.numpy() for images, _ in data.calibration_dataloader()])
    seen = events_per_image(Reference(graph).run(settle_set))
    if method == "oaq":  # settling promises nothing about held-out images, whose sums may go a little further
        assert len(seen) == record.overflow.settle_images and not seen.any()
    else:
        assert seen.any() and events_per_image(narrow).any()

    path = export_onnx(graph, data.input_shape, tmp_path / "model.onnx")
    for found, wanted in zip(run_onnx(path, images), exact, strict=True):
        np.testing.assert_array_equal(found, wanted)
    again = import_onnx(path)
    assert [node.name for node in again.nodes] == [node.name for node in graph.nodes]
