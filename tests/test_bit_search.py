"""From settings to bits per layer, and from these to a run."""

import importlib.util
import re
from pathlib import Path

import pytest
from composing import TINY, changed, quantization_of, read_of, tiny

from oaq_repro.bit_search import Search, arguments, overrides, search
from oaq_repro.errors import InputError
from oaq_repro.experiment import run
from oaq_repro.run import Run

SCRIPT = Path(__file__).parents[1] / "scripts" / "assign_bits.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("assign_bits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


def test_arguments_say_the_layers_that_differ():
    found = arguments(overrides({"0": 4, "layer1.0.conv1": 8, "head.fc": 2}, weight_bits=8))
    assert not any(re.search(r"\s", argument) for argument in found)
    read = quantization_of(*found).overrides
    differing = {x.match: x.weight_bits for x in read.values() if x.weight_bits is not None}
    assert differing == {"0": 4, "head.fc": 2}
    assert all(x.activation_bits is None and x.accumulator is None for x in read.values() if x.match in differing)


@pytest.mark.slow
def test_a_search_gives_a_run_its_bits(script, results, capsys):
    given = [
        *changed(TINY, "trainer.enable_progress_bar=true"),
        f"results={results}",
        "method=int8",
        "+quantization.overrides.mine={match: layer4.1.conv2, weight_bits: 6}",
    ]
    assert (
        script.main([*given, "--widths", "2", "4", "8", "--fraction", "0.4", "--vectors", "2", "--batches", "1"]) == 0
    )
    out, err = capsys.readouterr()
    record = run(tiny(results, "method=int8", given[-1], *out.split()))
    assert record.status == "finished"
    bits = dict(re.findall(r"match:'(.*?)',weight_bits:(\d)", out))
    levels = {layer.name: layer.levels_weight for layer in record.layers}
    assert set(bits) < set(levels)
    assert all(levels[name] <= 2 ** int(width) for name, width in bits.items())
    assert not {record.layers[0].name, record.layers[-1].name, "layer4.1.conv2"} & set(bits)
    assert 33 <= levels["layer4.1.conv2"] <= 63
    tied = {name: bits.get(name, "8") for name in ("layer2.0.conv1", "layer2.0.downsample.0")}
    assert len(set(tied.values())) == 1
    cost, bound = (float(x) for x in re.search(r"bops (\S+) of at most (\S+)\n", err).groups())
    assert cost <= bound
    assert record.cost.bops > cost  # which is without the fixed layers


@pytest.mark.slow
def test_controls_cost_no_more_and_are_no_better(results):
    made = Run.prepared(read_of(*TINY, f"results={results}", "method=int8"))
    found = {
        choice: search(made, Search(constraint="size", choice=choice, vectors=2, batches=1))
        for choice in ("least", "most", "random")
    }
    assert len({one.bound for one in found.values()}) == 1
    assert all(one.assignment.cost <= one.bound for one in found.values())
    least, most, drawn = (found[choice].assignment.sensitivity for choice in ("least", "most", "random"))
    assert least <= drawn <= most and least < most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "wanted", "says"),
    [
        ("float32", Search(), "method: found float32, expected one that quantizes"),
        ("int8", Search(widths=(8,)), "widths: found \\[8\\], expected at least two of 2 to 8"),
        ("int8", Search(widths=(4, 16)), "widths: found \\[4, 16\\]"),
    ],
)
def test_what_cannot_be_searched(results, method, wanted, says):
    with pytest.raises(InputError, match=says):
        search(Run.prepared(read_of(*TINY, f"results={results}", f"method={method}")), wanted)


def test_a_wrong_override_is_one_line(script, capsys):
    assert script.main(["method=int8", "quantization.weight_bits=99"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
