import csv
import io
from pathlib import Path

import pytest

from oaq_repro.errors import InputError
from oaq_repro.results.curves import read_curves, training_curves
from oaq_repro.results.operand_figure import HEADS, operand_figure, read_line

LOG = """\
alpha_activation/a,alpha_activation/b,alpha_weight/a,alpha_weight/b,epoch,loss,overflow,overflow/a,step,top1
1.0,2.0,1.5,2.5,0,0.7,1000.0,1000.0,9,
,,,,0,0.7,,,10,
1.0,3.0,2.0,4.0,1,0.6,0.0,0.0,19,
,,,,1,,,,19,0.8
"""


def numbers(plot) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(plot.files()[f"{plot.name}.csv"].decode())))


def test_training_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    curves = read_curves([path])
    assert curves is not None
    assert (curves.steps, curves.events) == ([9, 19], [1000.0, 0.0])
    plot = training_curves(curves, "a run", "training-a")
    first, last = numbers(plot)
    assert (first["alpha_weight_min"], first["alpha_weight_median"], first["alpha_weight_max"]) == ("1.5", "2", "2.5")
    assert last["alpha_activation_q75"] == "2.5"
    assert set(plot.files()) == {"training-a.csv", "training-a.svg", "training-a.png"}


def test_extremes_are_those_of_the_channels(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "alpha_activation/a,alpha_weight/a,alpha_weight/b,alpha_weight_max/a,alpha_weight_min/a,overflow,step\n"
        "1,2,3,9,1.25,0,5\n"
    )
    curves = read_curves([path])
    assert curves is not None and curves.alphas["alpha_weight"] == [[1.25, 2.25, 2.5, 2.75, 9.0]]
    assert curves.alphas["alpha_activation"] == [[1.0] * 5]


def test_an_interrupted_fine_tuning_goes_on_in_another_file(tmp_path: Path) -> None:
    parts = [tmp_path / name / "metrics.csv" for name in ("finetune-10", "finetune-2", "finetune")]
    for number, path in enumerate(reversed(parts)):
        path.parent.mkdir()
        path.write_text(
            f"alpha_activation/a,alpha_weight/a,overflow,step\n1,2,{number}.0,{5 * number}\n3,3,9,{5 + 5 * number}\n"
        )
    curves = read_curves(parts)
    assert curves is not None
    assert (curves.steps, curves.events) == ([0, 5, 10, 15], [0.0, 1.0, 2.0, 9.0])


def test_a_log_without_alphas_has_no_curves(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,step\n0,0.7,9\n")
    assert read_curves([path]) is None
    assert read_curves([]) is None


@pytest.mark.parametrize("content", [b"overflow,step\n3,often\n", b"overflow\n3\n", b"\xff\xfe"])
def test_broken_logs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="metrics.csv: cannot be read"):
        read_curves([path])


def test_operand_bits_of_several_networks(tmp_path: Path) -> None:
    lines = []
    for name, events in (("int8", (0, 5, 50)), ("oaq", (0, 0, 0))):
        rows = [
            f"{bits},{layer},{n},100,{n // 5},10"
            for bits, n in zip((4, 6, 8), events, strict=True)
            for layer in ("conv", "together")
        ]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([",".join(HEADS), *rows]))
        lines.append(read_line(path, name, "0" * 16))
    plot = operand_figure(lines)
    found = {(r["network"], r["bits"]): (r["events"], r["outputs"], r["images_affected"]) for r in numbers(plot)}
    assert found["int8", "8"] == ("50", "100", "10") and found["oaq", "8"] == ("0", "100", "0")
    assert len(found) == 6
    assert operand_figure(lines[1:]).files()["operand_bits.png"]


@pytest.mark.parametrize("text", ["bits\n8\n", "bits,layer,events,outputs,images_affected,images\n8,conv,1,2,1,1\n"])
def test_broken_counts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "operand_bits.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="operand_bits.csv"):
        read_line(path, "x", "0" * 16)
