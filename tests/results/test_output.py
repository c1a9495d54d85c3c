import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from oaq_repro.results.figures import alpha_figure, write_figures
from oaq_repro.results.labels import short_names
from oaq_repro.results.output import alpha_plot
from oaq_repro.results.record import Record
from oaq_repro.results.sections import AssignedLayer, BitAssignment, Layer
from oaq_repro.results.terminal import print_record


def _printed(record: Record, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_record(record, console)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_has_the_numbers(make_record, width: int) -> None:
    record = make_record(22)
    text = _printed(record, width)
    for number in ("72.51", "72.39", "72.38", "72.36", "integer int16", record.hash):
        assert number in text
    words = " ".join(text.split())
    assert f"held-out data: {record.overflow.evaluation_events:,} of {sum(record.overflow.outputs.values()):,}" in words
    assert f"settle set: {record.overflow.settle_events:,} of" in words
    assert "in 37 of 1,000 images" in words
    assert f"{record.certified} of 22 layers certified (✓)" in words
    assert "the classifier keeps int32" in words
    assert "100.00 M products, 6.400 G bit operations, 2.500 MB of weights, 25% of them zero" in words
    for layer in record.layers:
        assert f"{layer.alpha_activation:.2f}/{layer.alpha_weight:.2f}" in text
        assert f"{layer.worst_case:.2f}" in text
        assert f"{layer.overflow_seen:,}" in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert not any("…" in word for line in text.splitlines() for word in line.split()[1:])  # names may be shortened


def test_terminal_says_what_bits_were_found(make_record) -> None:
    def layer(name: str, bits: int) -> AssignedLayer:
        numbers = {2: 1.0, 4: 0.5}
        return AssignedLayer(
            name=name, bits=bits, tied=None, trace=1.0, trace_error=0.1, sensitivity=numbers, cost=numbers
        )

    layers = [layer("a", 4), layer("b", 2), layer("c", 4)]
    found = BitAssignment(unit="bytes", sensitivity=2.0, cost=1500.0, bound=2000.0, table=None, layers=layers)
    words = " ".join(_printed(make_record(4).model_copy(update={"assignment": found}), 80).split())
    assert "searched for: 1 layers at 2, 2 layers at 4; 1,500 of at most 2,000 bytes" in words


def per_channel(record: Record) -> Record:
    """The record with factors per channel in all layers but the last."""
    ranges = {"alpha_weight_min": 1.0, "alpha_weight_max": 15.25, "bits_weight_min": 4.0, "bits_weight_max": 8.0}
    layers = [layer.model_copy(update=ranges) for layer in record.layers[:-1]]
    return record.model_copy(update={"layers": [*layers, record.layers[-1]]})


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_the_range_over_channels(make_record, width: int) -> None:
    record = per_channel(make_record(22))
    text = _printed(record, width)
    assert text.count("1.0-15.2") == 21
    for layer in record.layers:
        assert f"{layer.alpha_activation:.2f}/{layer.alpha_weight:.2f}" in text and f"{layer.overflow_seen:,}" in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert not any("…" in word for line in text.splitlines() for word in line.split()[1:])


def test_figure_and_numbers_show_the_range_over_channels(make_record) -> None:
    record = per_channel(make_record(5))
    left, right = alpha_figure(record).axes
    for axes, low, high in ((left, 1.0, 15.25), (right, 4.0, 8.0)):
        (lines,) = axes.collections
        assert [segment[:, 0].tolist() for segment in lines.get_segments()] == 4 * [[low, high]]
        assert axes.get_xlim()[0] < low and axes.get_xlim()[1] > high
    assert not alpha_figure(make_record(5)).axes[0].collections
    plot, plain = alpha_plot(record), alpha_plot(make_record(5))
    assert plot.heads[-4:] == ["alpha_weight_min", "alpha_weight_max", "bits_weight_min", "bits_weight_max"]
    assert plot.rows[0][-4:] == [1.0, 15.25, 4.0, 8.0] and plot.heads[:6] == plain.heads


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_says_which_layers_took_which_requantization(make_record, width: int) -> None:
    record = make_record(22)
    assert "Requantization" not in _printed(record, width)
    for layer in record.layers:
        layer.requantization = "fixed16"
    record.layers[-1].requantization = "dyadic"
    record.layers[-1].requantization_reason = "fixed16 is for sums of at most 16 bits, its accumulator is int32"
    words = " ".join(_printed(record, width).split())
    assert "Requantization: fixed16 in 21 layers, dyadic in 1 layers" in words
    assert "Another requantization: head.classifier (dyadic, fixed16 is for sums of at most 16 bits" in words


def test_terminal_keeps_large_counts_readable(make_record) -> None:
    record = make_record(3)
    record.layers[1].overflow_seen = 123_456_789
    assert "1.23e+08" in _printed(record, 80)


def test_terminal_says_what_was_left_in_float(make_record) -> None:
    record = make_record(3)
    assert "Quantized 3 modules; none left in float" in _printed(record, 80)
    some = record.model_copy(update={"left_float": ["head", "neck"], "simulated_only": ["head, neck: in float"]})
    text = " ".join(_printed(some, 80).split())
    assert "left in float on request: head, neck" in text and "No integer stages: head, neck: in float" in text


def test_terminal_shows_a_failed_run(make_record) -> None:
    record = make_record(3, status="failed", error="the loss is not finite at epoch 3")
    early = record.model_copy(update={"metrics": {}, "overflow": None, "layers": []})
    for run in (record, early):
        assert "failed: the loss is not finite at epoch 3" in _printed(run, 80)


@pytest.mark.parametrize("layers", [1, 8, 60])
def test_figures_are_written_and_show_marks(make_record, tmp_path: Path, layers: int) -> None:
    record = make_record(layers)
    paths = write_figures(record, tmp_path)
    assert [path.name for path in paths] == ["alpha.png", "overflow.png"]
    for path in paths:
        with Image.open(path) as image:
            assert image.width == 1000
            assert image.height >= 40 * layers
            assert (np.asarray(image.convert("L")) < 64).mean() > 0.005


def test_figures_are_deterministic(make_record, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_figures(make_record(8), tmp_path / "a")]
    assert first == [path.read_bytes() for path in write_figures(make_record(8), tmp_path / "b")]


def test_figures_at_the_edges(make_record, tmp_path: Path) -> None:
    """All zero, everything overflowing, alpha at its cap, nothing counted on the settle set."""
    quiet, loud, odd = make_record(8), make_record(8), make_record(8)
    quiet.overflow.evaluation = dict.fromkeys(quiet.overflow.evaluation, 0)
    quiet.overflow.settle = dict.fromkeys(quiet.overflow.settle, 0)
    loud.overflow.evaluation = dict(loud.overflow.outputs)
    loud.layers[2] = Layer.model_validate(loud.layers[2].model_dump() | {"alpha_weight": 16.0, "bits_weight": 1.6})
    odd.overflow.settle, odd.overflow.settle_outputs = {}, {}
    for number, record in enumerate((quiet, loud, odd)):
        assert len(write_figures(record, tmp_path / str(number))) == 2


def test_figures_only_of_what_is_known(make_record, tmp_path: Path) -> None:
    record = make_record(4)
    assert [path.name for path in write_figures(record.model_copy(update={"overflow": None}), tmp_path)] == [
        "alpha.png"
    ]
    assert write_figures(record.model_copy(update={"layers": []}), tmp_path / "none") == []


def test_short_names() -> None:
    assert short_names(["net.a.conv", "net.b.conv"]) == ["a.conv", "b.conv"]
    assert short_names(["net.conv"]) == ["net.conv"]
    assert short_names(["net", "net.a"]) == ["net", "net.a"]
    assert short_names(["a.rather.long.qualified.name"], 15) == ["a.rathe…ed.name"]
    assert all(len(name) <= 12 for name in short_names(["x" * 40, "y.z", "abcdefghijklm"], 12))


def test_results_room_imports_neither_torch_nor_lightning() -> None:
    modules = ["record", "store", "provenance", "labels", "terminal", "figures", "tables", "paper_tables", "output"]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module('oaq_repro.results.' + name)\n"
        "print([m for m in ('torch', 'pytorch_lightning', 'lightning', 'hydra') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("top", [1.0, 1.3, 5.5, 16.0, 122.6, 3.4e6])
def test_factors_of_any_size_have_few_ticks(make_record, top: float) -> None:
    record = make_record(5)
    record.layers[2].alpha_weight = top
    axes = alpha_figure(record).axes[0]
    ticks = list(axes.get_xticks())
    largest = max(top, *(max(x.alpha_activation, x.alpha_weight) for x in record.layers))
    assert ticks[0] == 1 and 2 <= len(ticks) <= 7 and ticks[-1] >= largest - 1
