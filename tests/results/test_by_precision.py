"""Tables and figures of precision per frame, from made-up sections."""

import io

import numpy as np
import pytest
from rich.console import Console

from oaq_repro.errors import InputError
from oaq_repro.results import by_precision, precision_figure
from oaq_repro.results.frame_sections import FramePrecision
from oaq_repro.results.record import Record
from oaq_repro.results.summary import interval
from oaq_repro.results.terminal import render_record

WIDTHS = (8, 4)
TOP1 = {"policy": 0.9, "uniform": 0.88, "shuffled": 0.7, "skip_only": 0.89, "line": 0.895, "oracle": 0.93}


def section(make_record, shift=0.0, kinds=True):
    """Its rows differ by `shift` from those of another seed, the policy by twice that."""
    base = make_record(3)
    graphs = [
        {
            "bits": bits, "metrics": {s: {"clip_top1": 0.8} for s in ("soft", "simulated", "integer_int32", "integer")},
            "overflow": base.overflow.model_dump(), "layers": [x.model_dump() for x in base.layers],
            "cost": base.cost.model_dump(), "latency_ms": {"fast": 1.0},
        }
        for bits in WIDTHS
    ]  # fmt: skip

    def row(choice, bits=None, frames=True):
        value = TOP1[choice] + shift * (2 if choice == "policy" else 1)
        parts = {8: 0.5, 4: 0.25, 0: 0.25} if frames else {}
        found = {"choice": choice, "bits": bits, "metrics": {"clip_top1": value, "clip_map": 0.5}, "frames": parts}
        return found | {"cost": 0.5 if bits is None else bits / 8, "macs": 2e5, "bops": 3e6, "ms": 0.25}

    rows = [row("policy"), *(row("uniform", b) for b in WIDTHS), row("shuffled")]
    rows += [*(row("skip_only", b) for b in WIDTHS), row("line", frames=False), *([row("oracle")] if kinds else [])]
    return FramePrecision.model_validate(
        {
            "clips": 100, "frames": 6, "widths": graphs, "policy_macs": 100, "policy_ms": 0.1, "choices": rows,
            "by_kind": {"easy": {8: 30, 4: 10, 0: 60}} if kinds else {},
        }
    )  # fmt: skip


@pytest.fixture
def records(make_record, make_config):
    found = []
    for seed, shift in enumerate((0.0, 0.01, 0.02)):
        config = make_config(data={"kind": "digit_clips", "hard": "blur"}, method={"kind": "videoiq"}, seed=seed)
        metrics = {stage: {"clip_top1": 0.9} for stage in ("float", "simulated", "integer_int32", "integer")}
        record = make_record(0, seed=seed, config=config, metrics=metrics)
        changes = {"frame_precision": section(make_record, shift), "overflow": None, "cost": None, "latency_ms": {}}
        found.append(Record.model_validate(record.model_copy(update=changes).model_dump()))
    return found


def test_the_table_has_every_control_with_paired_differences(records):
    files = by_precision.precision_files(records)
    (markdown, csv) = files.values()
    assert list(files) == [f"video-digit_clips-classifier-{records[0].hash[:8]}.{s}" for s in ("md", "csv")]
    lines = {line.split("|")[1].strip(): line for line in markdown.splitlines() if line.startswith("|")}
    for name in ("policy", "all at 8 bits", "all at 4 bits", "shuffled", "skips, else 8 bits", "line", "oracle"):
        assert name in lines
    assert "92.00 ± 4.97" in lines["policy"]  # 90, 92, 94: t = 4.303, s / sqrt 3 = 1.155
    assert "+21.00 ± 2.48" in lines["shuffled"]  # 20, 21, 22
    assert "| - | - | - |" in lines["line"] and "50.0 | 25.0 | 25.0" in lines["policy"]
    assert "(blur)" in markdown and "Which frames got which precision" in markdown
    assert "| easy | 30.00 ± 0.00 | 10.00 ± 0.00 | 60.00 ± 0.00 |" in markdown
    assert csv.count("\n") == 1 + 8 and csv.splitlines()[1].split(",")[1:4] == ["policy", "", "3"]


def test_without_kinds_there_is_no_table_of_them(records, make_record):
    plain = [r.model_copy(update={"frame_precision": section(make_record, kinds=False)}) for r in records]
    (markdown, _) = by_precision.precision_files(plain).values()
    assert "Which frames" not in markdown and "| oracle" not in markdown


def test_other_runs_make_no_such_table(make_record):
    assert by_precision.precision_files([make_record(2)]) == {}


def test_the_figure_has_every_row(records):
    plot = precision_figure.accuracy_cost(records)
    assert [row[0] for row in plot.rows] == [
        "policy", "all at 8 bits", "all at 4 bits", "shuffled", "skips, else 8 bits", "skips, else 4 bits", "line",
        "oracle",
    ]  # fmt: skip
    policy = interval([0.9, 0.92, 0.94])
    assert plot.rows[0][1:] == [0.5, pytest.approx(policy.mean), pytest.approx(policy.half)]
    assert set(plot.files()) == {f"{plot.name}.{suffix}" for suffix in ("csv", "svg", "png")}
    again = precision_figure.accuracy_cost(records).files()
    assert plot.files()[f"{plot.name}.svg"] == again[f"{plot.name}.svg"]


def examples(path, kinds=True, clips=2, channels=1):
    rng = np.random.default_rng(0)
    arrays = {
        "pixels": rng.integers(0, 256, (clips, 3, 5, 5, channels), dtype=np.uint8),
        "bits": rng.choice([8, 2, 0], (clips, 3)),
        "labels": np.array(["7"] * clips),
    }
    np.savez(path, **arrays, **({"kinds": np.full((clips, 3), "easy")} if kinds else {}))
    return arrays


@pytest.mark.parametrize("kinds, channels", [(True, 1), (False, 3)])
def test_the_picture_says_what_every_frame_got(records, tmp_path, kinds, channels):
    arrays = examples(tmp_path / "frames.npz", kinds, channels=channels)
    plot = precision_figure.frames_picture(records[0], tmp_path / "frames.npz")
    assert [row[4] for row in plot.rows] == arrays["bits"].flatten().tolist()
    assert {row[3] for row in plot.rows} == {"easy" if kinds else ""}
    texts = [axes.get_xlabel() for axes in plot.figure.axes]
    assert texts[0] == f"{'easy: ' * kinds}{'skip' if not arrays['bits'][0, 0] else f'''{arrays['bits'][0, 0]} bits'''}"
    found = precision_figure.figures_of(records[0], tmp_path)
    assert set(found) == {"accuracy_cost.png", "frames.png"}


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "frames.npz"
    if content is None:
        np.savez(path, pixels=np.zeros((1, 2, 3)), bits=np.zeros((1, 2)), labels=np.zeros(1))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"frames.npz: cannot be read .*expected clips that a run of task=video kept"):
        precision_figure.read_examples(path)


def test_the_terminal_says_what_one_seed_shows(records):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render_record(records[0]))
    text = console.export_text()
    assert "Precision per frame: 100 held-out clips of 6 frames" in text
    assert "+0.50 points here; one seed shows nothing" in " ".join(text.split())
    assert all(len(line) <= 80 for line in text.splitlines()) and "skips, else 4 bits" in text
