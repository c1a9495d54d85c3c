"""The audit against worst cases worked out by hand, and against a multiplication that saturates."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.random_graphs import random_graph
from oracles.reference import accumulate, around, conv, linear, q, small_network

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError
from oaq_repro.integer import graph as ir
from oaq_repro.integer.audit import Audit, Operands, audit, audit_layer, audit_schema
from oaq_repro.integer.certificate import certify
from oaq_repro.integer.graph.nodes import QParams


def pairs_of(weights, q_max=255, zero_point=0):
    source = q(1.0, zero_point, q_max)
    nodes = (ir.Flatten("f", ("x",), source), linear("fc", "f", source, q(), np.atleast_2d(weights)))
    (row,) = audit(around(*nodes, source=source))
    return row.pairs


@pytest.mark.parametrize(
    "weights, q_max, expected",
    [
        ([64, 64], 255, "exact"),  # 255 * 128 = 32640
        ([65, 64], 255, "possible"),  # 32895
        ([-64, -64], 255, "exact"),
        ([-64, -65], 255, "possible"),
        ([-128, 1, 2], 255, "exact"),  # -32640
        ([-128, -1], 255, "possible"),
        ([100, -100, 100, 5], 255, "depends on pairing"),  # neighbours are fine, first and third are not
        ([100, 5, -100, 100], 255, "depends on pairing"),
        ([5, 100, 100, 5], 255, "depends on pairing"),  # neighbours pair as (5, 100), (100, 5)
        ([5, 5, 100, 100], 255, "possible"),
        ([127, 127], 129, "exact"),  # 32766
        ([127, 127], 130, "possible"),
        ([127], 255, "exact"),
        ([127, 0, 0, 0, 127], 255, "depends on pairing"),
        ([[127, 1], [1, 1]], 255, "exact"),  # 32640; channels do not mix
        ([[127, 1], [1, 127]], 255, "exact"),
        ([[127, 1], [2, 127]], 255, "possible"),
    ],
)
def test_pairs(weights, q_max, expected):
    assert pairs_of(weights, q_max) == expected
    # the instruction multiplies raw codes: zero points play no part
    assert pairs_of(weights, q_max, q_max // 2) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=1, max_size=6), st.integers(100, 255), st.randoms())
def test_exact_and_possible_by_trying(weights, q_max, random):
    """Codes at the extremes, products saturated pair by pair, as they stand and shuffled."""
    verdict = pairs_of(weights, q_max)

    def saturates(order):
        codes = [[q_max if w > 0 else 0 for w in order], [q_max if w < 0 else 0 for w in order]]
        return any(accumulate(c, order, 0, NAMED["pair_saturating"])[1] for c in codes)

    shuffled = list(weights)
    random.shuffle(shuffled)
    if verdict == "exact":
        assert not saturates(weights) and not saturates(shuffled)
    else:
        assert saturates(weights) == (verdict == "possible")


def test_rows_of_a_network():
    graph = small_network().graph
    rows = audit(graph)
    assert [row.name for row in rows] == ["stem", "depthwise", "project", "dilated", "classifier"]
    assert [row.kind for row in rows] == ["conv", "depthwise", "conv", "conv", "linear"]
    assert [row.depth for row in rows] == [27, 9, 8, 36, 22]
    assert [row.q_max for row in rows] == [255, 255, 255, 85, 255]
    for row, layer in zip(rows, graph.layers(), strict=True):
        source = graph.qparams(layer.inputs[0])
        found = certify(layer, source, NAMED["int16"])
        assert (row.worst_case, row.longest_block) == (found.worst_case, found.longest_block)
        assert row.to_dict()["narrowest"] == row.narrowest.name and row.to_dict()["accumulator"]["bits"] in (16, 32)


def test_depthwise_is_exact_and_grouped_is_not():
    source = q()
    fields = {"weight_scale": [1.0] * 4}
    full = np.full((4, 1, 3, 3), 127)
    depthwise = conv("d", "x", source, source, full, groups=4, **fields)
    (row,) = audit(around(depthwise, source=source))
    assert (row.kind, row.pairs) == ("depthwise", "exact")
    multiplied = conv("m", "x", source, source, full, groups=2, **fields)  # two outputs per channel
    (row,) = audit(around(multiplied, source=source))
    assert (row.kind, row.pairs) == ("conv", "possible")


def test_narrowest_accumulator():
    def narrowest(weights, q_max=255):
        source = q(1.0, 0, q_max)
        nodes = (ir.Flatten("f", ("x",), source), linear("fc", "f", source, q(), [weights]))
        (row,) = audit(around(*nodes, source=source))
        return row.narrowest

    assert narrowest([64, 64]) == NAMED["int16"]
    assert narrowest([64, 64, 1]) == Accumulator(bits=16, block=2)
    assert narrowest([40] * 9) == Accumulator(bits=16, block=3)
    assert narrowest([127, 127]) == NAMED["int32"]
    assert narrowest([127, 127], q_max=129) == NAMED["int16"]


def test_the_narrowest_is_certified():
    for seed in range(60):
        graph, _ = random_graph(seed)
        for row, layer in zip(audit(graph), graph.layers(), strict=True):
            assert certify(layer, graph.qparams(layer.inputs[0]), row.narrowest).certified
            assert row.narrowest.bits == 16 or row.worst_case > 1


def test_wrong_graph():
    with pytest.raises(InputError):
        audit(ir.Graph("x", (), ()))


def test_the_documented_schema_is_that_of_the_code():
    """docs/audit.md; to write it anew: json.dumps(audit_schema(), indent=2)."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert json.loads(documented) == audit_schema()


def test_json_has_the_fields_of_the_schema():
    schema = audit_schema()
    found = json.loads(json.dumps(Audit(layers=audit(small_network().graph)).to_dict()))
    assert found.keys() == schema["properties"].keys() and set(schema["required"]) <= found.keys()
    fields = schema["$defs"]["LayerAudit"]["properties"]
    for row in found["layers"]:
        assert row.keys() == fields.keys()
        assert row["kind"] in fields["kind"]["enum"] and row["pairs"] in fields["pairs"]["enum"]


def test_sums_beyond_32_bits():
    """255 * 128 * K passes 2^31 at K = 65794."""
    codes = QParams(np.float32(1), 0, 255)

    def narrowest(depth):
        matrix = np.full((1, depth), -128, np.int8)
        return audit_layer(Operands("layer", "linear", matrix, codes, matrix, 255, "neighbours")).narrowest

    assert narrowest(65793) == NAMED["int32"] and narrowest(65794) is None
