"""Reports and figures of made-up rows."""

import json

import pytest

from oaq_repro.benchmark import figures, report
from oaq_repro.benchmark.timing import Row


def row(variant: str, ms: float, ratio: float, name: str = "net", threads: int = 1, note: str = "") -> Row:
    return Row(name, threads, variant, ms, ms, ratio, (ratio, ratio), 10 * ms, 5, note)


MODELS = [
    row("fast", 2.0, 1.0),
    row("fast fixed16", 1.5, 0.7),
    row("certified", 2.5, 1.25),
    row("acc32", 3.0, 1.5),
    row("exact", 5.0, 2.5),
    row("onnxruntime int8", 4.0, 2.0, note="a | b"),
    row("openvino int8", 3.0, 1.75),
    Row("net", 1, "ncnn int8", note="not timed: no such package"),
    row("onnxruntime fp32", 8.0, 4.0),
    row("fast", 1.2, 1.0, threads=2),
]
KERNELS = [
    row("16 bit", 4.0, 1.0, "1x1 7x7 32-64"),
    row("fold 1", 2.0, 2.0, "1x1 7x7 32-64"),
    row("16 bit", 3.0, 1.0, "1x1 /2 7x7 64-64"),
    row("exact", 1.0, 3.0, "depthwise 3x3 /2 14x14 32"),
]


def line(text: str, start: str) -> list[str]:
    """Cells of the first table line that begins so."""
    found = next(one for one in text.splitlines() if one.startswith(f"| {start}"))
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def test_models(machine):
    text = report.models_markdown(machine, MODELS)
    assert "a processor, 2 cores, 3.00 GHz" in text and "restricted to AVX2" in text and "numpy 2" in text
    summary = line(text, "net | 1")
    assert summary == [
        "net", "1", "2.00", "0.70", "1.25", "-", "1.50", "2.50",
        "openvino int8", "1.75", "2.50", "1.40", "-", "onnxruntime fp32", "4.00",
    ]  # fmt: skip
    assert line(text, "net | 2") == ["net", "2", "1.20", *["-"] * 12]
    assert line(text, "ncnn int8") == ["ncnn int8", "-", "-", "-", "-", "not timed: no such package"]
    assert "a \\| b" in text
    assert line(text, "openvino int8")[3] == "1.75 (1.75-1.75)"
    for one in text.splitlines():
        assert not one.startswith("| ") or one.endswith(" |")
    assert "## net, 1 thread\n" in text and "## net, 2 threads\n" in text


def test_a_busy_machine_is_said_so(machine):
    assert "busy" not in report.models_markdown(machine, MODELS)
    assert "The machine was busy" in report.models_markdown({**machine, "load_average": [1.5, 0.0, 0.0]}, MODELS)


def test_kernels(machine):
    text = report.kernels_markdown(machine, KERNELS)
    assert line(text, "1x1 | ")[1] == "40.0 (35.0)"  # best and median of two shapes
    cells = line(text, "1x1 7x7 32-64")
    assert cells == ["1x1 7x7 32-64", "40.0", "-", "-", "-", "-", "20.0", "-", "2.00 (2.00-2.00)", "-"]
    assert line(text, "depthwise 3x3 | ")[-1] == "10.0 (10.0)"


def test_json(tmp_path, machine):
    content = json.loads(report.write_json(tmp_path / "models.json", machine, MODELS).read_text())
    assert content["machine"] == machine
    assert [found["variant"] for found in content["rows"]] == [one.variant for one in MODELS]
    assert content["rows"][6]["ratio_quartiles"] == [1.75, 1.75]


def test_no_peer_was_timed():
    assert report.best_peer(MODELS[:4], "int8") is None
    assert report.best_peer([Row("net", 1, "openvino int8", note="not timed")], "int8") is None


@pytest.mark.parametrize("suite, rows", [("models", MODELS), ("kernels", KERNELS), ("models", MODELS[6:7])])
def test_figures_are_the_same_for_the_same_rows(suite, rows, tmp_path):
    written = figures.write_figures(tmp_path / "a", suite, rows)
    again = figures.write_figures(tmp_path / "b", suite, rows)
    threads = sorted({one.threads for one in rows if one.median_ms is not None})
    assert [path.name for path in written] == [f"{suite}-{n}.{ending}" for n in threads for ending in ("png", "svg")]
    for first, second in zip(written, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
