"""Every preset of the paper, from the real layout of its data to its record: two steps of each training, all stages."""

import pytest
from composing import SMALL_IMAGES, TWO_STEPS, settings_of
from layouts import flatten_val, write_benchmarks, write_imagenet

from oaq_repro.experiment import run
from oaq_repro.results.measures import stage_columns
from oaq_repro.results.paper import load_tables
from oaq_repro.results.paper_tables import answers
from oaq_repro.results.record import load_record
from oaq_repro.results.store import run_folder
from oaq_repro.settings.composing import config_folder

pytestmark = pytest.mark.slow

CELLS = {
    cell.preset: (table, cell)
    for table in load_tables(config_folder().parent / "results")
    for cell in table.cells
    if cell.preset
}

OF_CLIPS = [preset for preset in CELLS if preset.startswith("videoiq")]

NETWORKS = {
    table.data: {
        override
        for other, cell in CELLS.values()
        if other.data == table.data
        for override in cell.run
        if override.startswith("model=")
    }
    for table, _ in CELLS.values()
}
"""By data, where rows name one; rows of one network share their float parent."""


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """One folder for each data set, and with it the results: so rows of one table share their float parent."""
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


def short(preset, root):
    where = [f"data.root={root}", f"results={root / 'results'}"]
    table, cell = CELLS[preset]
    given = [*where, *TWO_STEPS, *quick(preset), *cell.overrides]
    return settings_of(f"+experiment=paper/{preset}", *given, *SMALL_IMAGES.get(table.data, []))


def quick(preset):
    """What two steps need: a short search; weights that are annealed, else statistics would be those of others."""
    if "hawq" in preset:
        return ["method.search.vectors=2", "method.search.batches=1"]
    return ["method.weights.beta_scale=1000", "method.weights.beta_interval=1"] if "pmf" in preset else []


@pytest.mark.parametrize("preset", sorted(preset for preset in CELLS if preset not in OF_CLIPS))
def test_a_preset_from_its_data_to_its_record(roots, preset):
    table, cell = CELLS[preset]
    if table.metric == "miou":
        pytest.importorskip("mmengine", reason="the extra 'segmentation' is not installed")
    root = roots[table.data]
    record = run(short(preset, root))
    assert load_record(run_folder(root / "results", record.hash, record.seed) / "record.json") == record
    assert record.status == "finished" and record.provenance.dataset == table.dataset
    assert set(record.metrics) == set(stage_columns(record.metrics))
    assert ("hard" in record.metrics) == any(name in preset for name in ("pmf", "qap")) and all(
        table.metric in found for found in record.metrics.values()
    )
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    assert record.layers and not record.left_float and record.overflow.images > 0
    assert len(list(root.glob("results/parents/*/0/metrics.json"))) <= max(1, len(NETWORKS[table.data]))
    exempt = [layer for layer in record.layers if layer.reason]
    alphas = {layer.alpha_weight for layer in record.layers}
    if "oaq" in preset:
        assert record.overflow.settle_events == 0
        assert {layer.accumulator for layer in record.layers if not layer.reason} == {"int16"}
        assert exempt and all(layer.accumulator == "int32" for layer in exempt)
        assert all(layer.alpha_weight_max is None for layer in record.layers) and max(alphas) > 1
    else:
        assert {layer.accumulator for layer in record.layers} == {"int32"} and alphas == {1.0}
    # what keeps it out of the paper's table is the size of this tree, and that of its images
    assert not answers(record, table, cell)
    small = table.model_copy(update={"images": record.overflow.images})
    own = {"data.image_size", *(override.partition("=")[0] for override in [*TWO_STEPS, *quick(preset)])}
    wanted = [override for override in cell.run if override.partition("=")[0] not in own]
    config = {**record.config, "choices": {key.partition("=")[0]: key.partition("=")[2] for key in wanted}}
    renamed = record.model_copy(update={"config": config})
    assert answers(renamed, small, cell.model_copy(update={"run": wanted}))


@pytest.mark.parametrize("preset", OF_CLIPS)
def test_a_preset_of_clips_from_its_data_to_its_record(roots, preset):
    table, cell = CELLS[preset]
    root = roots[table.data]
    record = run(short(preset, root))
    assert load_record(run_folder(root / "results", record.hash, record.seed) / "record.json") == record
    assert record.status == "finished" and record.provenance.dataset == table.dataset
    found = record.frame_precision
    assert (found.clips, found.frames, [w.bits for w in found.widths]) == (3, 2, [8, 4, 2]) and not found.by_kind
    assert all(table.metric in metrics for metrics in record.metrics.values())
    assert record.metrics["integer_int32"] == record.metrics["simulated"]
    own = {"data.frames", *(override.partition("=")[0] for override in TWO_STEPS)}
    wanted = [override for override in cell.run if override.partition("=")[0] not in own]
    config = {**record.config, "choices": {key.partition("=")[0]: key.partition("=")[2] for key in wanted}}
    renamed = record.model_copy(update={"config": config})
    assert not answers(record, table, cell)
    assert answers(renamed, table.model_copy(update={"images": 3}), cell.model_copy(update={"run": wanted}))


def test_imagenet_whose_val_is_one_folder(tmp_path):
    root = flatten_val(write_imagenet(tmp_path / "flat"))
    record = run(short("mobilenetv1_imagenet_oaq", root))
    assert record.status == "finished" and record.overflow.images == 12
