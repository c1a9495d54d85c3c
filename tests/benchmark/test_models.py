"""The suite from end to end on a tiny network, peers that are missing or wrong, and the model that peers get."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from oracles.reference import small_network

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark import models, suite
from oaq_repro.benchmark.agreement import compare
from oaq_repro.benchmark.case import Case, macs
from oaq_repro.benchmark.networks import images
from oaq_repro.benchmark.peers import PEERS, Peer, Runner, attempt, faster, without
from oaq_repro.benchmark.plain_onnx import build_plain_model
from oaq_repro.errors import InputError
from oaq_repro.integer.onnx.session import run_onnx
from oaq_repro.integer.reference import Reference

MODES = ["fast", "fast fixed16", "certified", "certified fixed16", "acc32", "exact"]
QUICK = tuple(peer for peer in PEERS if peer.name.startswith(("onnxruntime", "ncnn")))
ALWAYS = ("onnxruntime int8", "onnxruntime fp32")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A folder of networks, which making takes seconds."""
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("peers", [QUICK, pytest.param(PEERS, marks=pytest.mark.slow)])
def test_end_to_end(tiny, tmp_path, monkeypatch, peers):
    monkeypatch.setattr(suite, "PEERS", peers)
    written = suite.run("models", tmp_path, [1, 2], None, 2, "native")
    assert [path.name for path in written] == [
        "models.json", "models.md", "models-1.png", "models-1.svg", "models-2.png", "models-2.svg",
    ]  # fmt: skip
    content = json.loads((tmp_path / "models.json").read_text())
    assert content["machine"]["clock_hz"] == 3e9 and content["machine"]["isa"] == "native"
    variants = [*MODES, *(peer.name for peer in peers)]
    assert [(row["threads"], row["variant"]) for row in content["rows"]] == [(n, v) for n in (1, 2) for v in variants]
    for row in content["rows"]:
        if row["variant"] in (*MODES, *ALWAYS):
            assert row["median_ms"] is not None and row["median_ms"] > 0 and row["rounds"] == 2, row["note"]
        assert row["note"] and (row["median_ms"] is None) == row["note"].startswith("not timed"), row
        if row["variant"] in MODES:
            assert row["note"] == "equal to the expected"
    assert "| tiny | 2 |" in (tmp_path / "models.md").read_text()
    kept = {path.name for path in (tmp_path / "networks").iterdir()}
    assert kept == {"tiny_int8.npz", "tiny_oaq.npz", "tiny_fixed16.npz", "tiny_fp32.onnx"}


def test_kernels_end_to_end(tiny, tmp_path):
    written = suite.run("kernels", tmp_path, [1], [tiny], 1, "native")
    assert [path.name for path in written] == ["kernels.json", "kernels.md", "kernels-1.png", "kernels-1.svg"]
    assert {row["variant"] for row in json.loads(written[0].read_text())["rows"]} >= {"16 bit", "fold 1", "exact"}


def test_peers_that_are_missing_fail_or_are_wrong(tiny, graphs):
    case = Case(tiny, graphs)
    right = case.expected("int8")

    def peer(outputs, expected=right):
        return Peer("some int8", "int8", lambda case, threads, isa: Runner(lambda: outputs, expected, "how"))

    runner, note = attempt(peer(list(right)), case, 1, "native")
    assert runner is not None and note == "how; equal to the expected"
    runner, note = attempt(peer([right[0] + 1e-3]), case, 1, "native")
    assert runner is not None and note.startswith("how; cosine with the expected")
    for outputs in ([-right[0]], [right[0][:, :-1]], [right[0] * np.nan]):
        runner, note = attempt(peer(outputs), case, 1, "native")
        assert runner is None and note.startswith("not timed: another network's results (how; cosine")
    missing = Peer("some int8", "int8", without("is not\ninstalled"))
    assert attempt(missing, case, 1, "native") == (None, "not timed: is not installed")
    (group,) = models.measure_models([tiny], [1], 1, graphs, "native", 3e9, [missing])
    assert [row.variant for row in group] == [*MODES, "some int8"]
    assert group[-1].median_ms is None and group[-1].note == "not timed: is not installed"


def test_an_engine_that_is_wrong_is_not_timed(tiny, graphs, monkeypatch):
    run = models.Engine.run

    def wrong(engine, images):
        outputs = run(engine, images)
        return tuple(output + 1 for output in outputs) if engine.mode == "fast" else outputs

    monkeypatch.setattr(models.Engine, "run", wrong)
    (group,) = models.measure_models([tiny], [1], 1, graphs, "native", 3e9, ())
    assert group[0].median_ms is None and "differs from the expected" in group[0].note
    certified = next(row for row in group if row.variant == "certified")
    assert certified.median_ms is not None and certified.ratio_to_fast is None  # nothing to compare with


def test_the_plain_model_computes_the_same_network():
    case = small_network()
    graph = case.graph.with_accumulator(NAMED["int32"])
    image = case.images[:1]
    model = build_plain_model(graph, image.shape[1:])
    assert not {"Max", "Gather", "ConvInteger", "ReduceSum"} & {node.op_type for node in model.graph.node}
    found = compare(run_onnx(model, image), Reference(graph).run(image).outputs)
    assert found.cosine > 0.99


def test_products_of_a_network(tiny, graphs):
    case = Case(tiny, graphs)
    shapes = case.oaq.shapes(case.input_shape)
    by_hand = 0
    for layer in case.oaq.layers():
        places = int(np.prod(shapes[layer.name][1:]))  # 1 for the classifier
        by_hand += layer.matrix.shape[1] * len(layer.weight) * places
    assert macs(case.oaq, case.input_shape) == by_hand > 0


def test_the_faster_form_is_taken():
    assert faster({"slow": lambda: sum(range(200_000)), "quick": lambda: None}) == "quick"


def test_unknown_networks(tiny, tmp_path, capsys):
    with pytest.raises(InputError, match="--networks: found 'vgg', expected some of tiny"):
        suite.run("models", tmp_path, [1], ["vgg"], 1, "native")
    script = Path(__file__).parents[2] / "scripts" / "benchmark.py"
    main = runpy.run_path(str(script))["main"]
    arguments = ["models", "--out", str(tmp_path), "--networks", "vgg", "--isa", "native"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: --networks: found 'vgg'")
    with pytest.raises(SystemExit):
        main([*arguments, "--threads", "1,none"])


def test_the_image_is_one_that_settling_saw(tiny, graphs):
    assert (Case(tiny, graphs).image == images(tiny).numpy()[0]).all()
