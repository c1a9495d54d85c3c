"""The page of networks: what its records say is what happens, and what it says is what they do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from oaq_repro.benchmark.coverage import measuring, page, running
from oaq_repro.benchmark.coverage.named import NAMED_NETWORKS, Named, UNet, with_random_weights
from oaq_repro.benchmark.coverage.records import Timing, load, save
from oaq_repro.benchmark.networks import smooth_noise
from oaq_repro.errors import InputError

ROOT = Path(__file__).parents[2]
SHAPE = (3, 16, 24)


def small():
    return UNet((4, 6), classes=2)


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).softmax(1)


@pytest.fixture
def two(monkeypatch):
    """One network that lowers and one that does not."""
    networks = {"small": Named("here", small, SHAPE), "softmax": Named("here", Softmax, SHAPE)}
    for module in (measuring, page, running):
        monkeypatch.setattr(module, "NAMED_NETWORKS", networks)
    return networks


def test_no_layer_is_silent_or_loud():
    torch.manual_seed(0)
    network, images = UNet(), smooth_noise(2, (3, 32, 32), 0)
    for parameter in network.parameters():
        parameter.data *= 1e-3
    seen = []
    with_random_weights(network, images)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _, x, y: seen.append(float(y.std())))
    with torch.no_grad():
        network(images)
    assert len(seen) == 18 and min(seen) > 0.5 and max(seen) < 2


def test_a_record_of_each_and_the_page(tmp_path, two, capsys):
    records, graphs, path = tmp_path / "records", tmp_path / "graphs", tmp_path / "page.md"
    with pytest.raises(InputError, match="found no record of a network"):
        page.write_page(records, path, False)
    running.check_all(["softmax"], records, graphs, False)
    assert "Not checked yet: small." in page.render(records)
    running.check_all(None, records, graphs, False)
    found = load(records, "small")
    assert found.exact and found.parameters == sum(p.numel() for p in small().parameters())
    assert list(found.equal) == ["reference", "certified", "fast", "acc32", "exact", "onnxruntime"]
    assert found.operators == {"Conv": 7, "MaxPool": 1, "ConvTranspose": 1, "Concat": 1}
    rejected = load(records, "softmax")
    assert "found softmax, which has no quantized form" in rejected.error and not rejected.exact
    running.time_all(["small"], records, graphs, False, 2, "native")
    times = load(records, "small").timing
    assert set(times.milliseconds) == {"certified", "fast", "acc32", "onnxruntime"} and times.rounds == 2
    assert page.write_page(records, path, True) == 1
    assert page.write_page(records, path, False) == 0 and page.write_page(records, path, True) == 0
    text = path.read_text()
    assert "1 of 2 networks become integers; 1 of these are equal in all ways." in text
    assert f"{times.milliseconds['fast']:.2f}" in text and rejected.error in text


def test_what_is_known_is_not_done_again(tmp_path, two, monkeypatch):
    running.check_all(None, tmp_path, tmp_path, False)
    monkeypatch.setattr(measuring, "check", None)  # would raise a TypeError
    running.check_all(None, tmp_path, tmp_path, False)
    timing = Timing(milliseconds={"fast": 1.0}, onnxruntime_form="plain", rounds=1, machine={})
    save(load(tmp_path, "small").model_copy(update={"timing": timing}), tmp_path)
    running.time_all(None, tmp_path, tmp_path, False, 1, "native")
    with pytest.raises(InputError, match="found 'smal', expected some of small, softmax"):
        running.check_all(["smal"], tmp_path, tmp_path, False)
    (tmp_path / "small.json").write_text(json.dumps({"name": 3}))
    with pytest.raises(InputError, match=r"small\.json: found .*expected a record"):
        load(tmp_path, "small")


def test_a_difference_is_found(two, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "run_onnx", lambda model, images: [np.zeros((1, 2, 16, 24), np.float32)])
    record = measuring.check("small", tmp_path)
    assert record.equal["exact"] and not record.equal["onnxruntime"] and not record.exact
    assert "no: ONNX Runtime" in page._cells(record)


def test_networks_of_the_page_that_lower_are_equal_in_all_ways():
    """Of the committed records; whether the page is theirs is asked by `make check-tables`, too."""
    found = [load(ROOT / "results" / "networks", name) for name in NAMED_NETWORKS]
    lowered = [record for record in found if record is not None and record.error is None]
    assert lowered and all(record.exact for record in lowered)
    assert page.write_page(ROOT / "results" / "networks", ROOT / "docs" / "networks.md", True) == 0
