from quant.networks import Classifier, images, quantized, trained

from oaq_repro.deploy import checked_engine as network
from oaq_repro.deploy.checked_engine import CheckedEngine
from oaq_repro.deploy.lower import lower
from oaq_repro.deploy.record_sections import layer_rows


def test_rows_are_those_of_the_engines_that_evaluated(monkeypatch):
    compiled = []

    class Counted(network.Engine):
        def __init__(self, graph, shape, threads, mode):
            super().__init__(graph, shape, threads, mode)
            compiled.append((shape, mode))

    monkeypatch.setattr(network, "Engine", Counted)
    model = quantized(trained(Classifier()), accumulator="int16")
    graph, x = lower(model), images(4)
    fast, certified = (CheckedEngine(graph, model, mode, threads=2) for mode in ("fast", "certified"))
    for integer in (fast, certified):
        integer(x)
    shape = list(x.shape[1:])
    rows = layer_rows(fast, certified, shape)
    assert compiled == [(tuple(shape), "fast"), (tuple(shape), "certified")]
    assert [row["name"] for row in rows] == [layer.name for layer in graph.layers()]
    for row, route, sure in zip(rows, fast.engine(shape).routes, certified.engine(shape).routes, strict=True):
        assert (row["name"], row["route"]) == (route.name, f"{route.registers}, {route.claim}")
        assert (row["name"], row["route_certified"]) == (sure.name, sure.registers)
        assert row["overflow_seen"] == fast.report.totals()[row["name"]]
        assert row["outputs"] == fast.report.outputs[row["name"]] > 0
