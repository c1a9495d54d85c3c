import statistics

import pytest

from oaq_repro.errors import InputError
from oaq_repro.results.by_pairs import FILE_NAME, PairLayer, SaturatingPairs, pair_files, read_pairs
from oaq_repro.results.output import make
from oaq_repro.results.pairs_figure import FARTHEST, pairs_figures
from oaq_repro.results.record import RECORD_NAME, save_record
from oaq_repro.results.store import run_folder


def layer(name, changed, pairs="possible"):
    return PairLayer(name=name, pairs=pairs, outputs=1000, changed=changed, images=min(changed, 10))


def measured(make_record, make_config, method, lost, layers, hash):
    found = []
    metrics = {"float": {"top1": 0.85}, "integer_int32": {"top1": 0.8}, "integer": {"top1": 0.1}}
    for seed, points in enumerate(lost):
        config = make_config(method={"kind": method}, seed=seed)
        record = make_record(3, seed=seed, hash=hash, config=config, metrics=metrics)
        pairs = SaturatingPairs(
            onnxruntime="1.0", images=10, exact={"top1": 0.8}, default={"top1": 0.8 - points, "agreement": 0.9},
            changed=4 * bool(layers), predicted=9 + seed % 2, audited=3, layers=tuple(layers),
        )  # fmt: skip
        found.append((record, pairs))
    return found


@pytest.fixture
def both(make_record, make_config):
    named = [layer("stem", 125), layer("head", 5), layer("last", 0, "depends on pairing")]
    plain = measured(make_record, make_config, "int8", (0.1, 0.2, 0.3), named, "b" * 16)
    return [*plain, *measured(make_record, make_config, "reduce_range", (0.0,), [], "a" * 16)]


def test_a_row_per_experiment_with_paired_differences(both) -> None:
    ((name, text),) = pair_files(both).items()
    assert name.startswith("saturating-pairs-cifar10-classifier-") and name.endswith(".md")
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    half = 100 * 4.302653 * statistics.stdev([0.1, 0.2, 0.3]) / 3**0.5  # Student t, 2 degrees of freedom
    assert rows[2] == ["int8", "int16", "80.00 ± 0.00", f"-20.00 ± {half:.2f}", "90.00 ± 0.00", "12/30", "28/30",
                       "2 of 3 of 3", "stem 12, head 0.5"]  # fmt: skip
    assert rows[3] == ["reduce_range", "int16", "80.00", "+0.00", "90.00", "0/10", "9/10", "0 of 0 of 3", "-"]
    assert len(rows) == 4 and "over 1-3 seeds" in text and pair_files([]) == {}


def test_what_lies_beside_records_is_read(both, tmp_path) -> None:
    for record, pairs in both:
        folder = run_folder(tmp_path, record.hash, record.seed)
        save_record(record, folder / RECORD_NAME)
        (folder / FILE_NAME).write_text(pairs.model_dump_json())
        assert read_pairs(folder / FILE_NAME) == pairs
    files = make(tmp_path, lambda tables: {}).files
    assert files[f"tables/{next(iter(pair_files(both)))}"].decode() == next(iter(pair_files(both).values()))


def test_the_figure_shows_every_kind_of_sums_against_float(both) -> None:
    (plot,) = pairs_figures(both)
    assert plot.name == "saturating_pairs-cifar10"
    rows = {(row[1], row[2]): (row[3], pytest.approx(row[4]), row[5]) for row in plot.rows}
    half = pytest.approx(100 * 4.302653 * statistics.stdev([0.1, 0.2, 0.3]) / 3**0.5, rel=1e-5)
    assert rows == {
        ("int8", "exact sums"): (3, -5, pytest.approx(0)),
        ("int8", "ONNX Runtime's default"): (3, -25, half),
        ("int8", "int16 sums"): (3, -75, pytest.approx(0)),
        ("reduce_range", "exact sums"): (1, -5, None),  # where nothing changes the default is no row of its own
        ("reduce_range", "int16 sums"): (1, -75, None),
    }
    (axes,) = plot.figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == [f"{method}, {sums}" for method, sums in rows]
    assert axes.get_xlim()[0] < FARTHEST and [text.get_text() for text in axes.texts][:3] == ["-5.0", "-25.0", "-75.0"]
    assert pairs_figures([]) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"images": 1}'])
def test_other_files_are_named(tmp_path, content) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{FILE_NAME}: cannot be read .*expected what scripts/saturating_pairs.py"):
        read_pairs(path)
