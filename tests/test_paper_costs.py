"""Costs of published bits, computed: against the published sums and against the layers' own counts."""

import json
import math
from pathlib import Path

import pytest

from oaq_repro.errors import InputError
from oaq_repro.paper_costs import paper_costs
from oaq_repro.quant.mixed_precision.cost import bit_operations
from oaq_repro.results.paper import load_tables

ROOT = Path(__file__).parents[1]
TABLES = {table.network: table for table in load_tables(ROOT / "results") if table.kind == "cost"}
AUTHORS = json.loads((ROOT / "tests" / "quant" / "mixed_precision" / "hawq_v3.json").read_text())
# bit operations of the first and the last layer at 8 bits: a 7x7 convolution of 3 to 64 channels, and the classifier
ENDS = {
    "resnet18": 64 * (112 * 112 * 64 * 147 + 512 * 1000),
    "resnet50": 64 * (112 * 112 * 64 * 147 + 2048 * 1000),
}


@pytest.fixture(scope="module")
def costs():
    return paper_costs(TABLES.values())


@pytest.mark.parametrize("network", TABLES)
def test_bits_are_the_published_ones(network):
    for row, bits in TABLES[network].bits.items():
        constraint, _, fraction = row.partition(", ")
        if constraint in AUTHORS[network]["eight_bits"]:
            eight = set(AUTHORS[network]["eight_bits"][constraint][fraction])
            assert bits == [8 if i in eight else 4 for i in range(len(AUTHORS[network]["macs"]))]


@pytest.mark.parametrize("network", TABLES)
def test_sums_are_those_of_the_authors_layers(network, costs):
    table, macs, weights = TABLES[network], AUTHORS[network]["macs"], AUTHORS[network]["parameters"]
    ends = 64 * 147 + (512 if network == "resnet18" else 2048) * 1000
    for row, bits in table.bits.items():
        if bits == 32:
            continue
        each = [bits] * len(macs) if isinstance(bits, int) else bits
        found = costs[table.name]
        bops = ENDS[network] + sum(bit_operations(m, b, b) for m, b in zip(macs, each, strict=True))
        assert found[row, "GBOPs"] == pytest.approx(bops / 1e9, rel=1e-12)
        size = ends + math.fsum(w * b / 8 for w, b in zip(weights, each, strict=True))
        assert found[row, "MB"] == pytest.approx(size / 2**20, rel=1e-12)


@pytest.mark.parametrize("network", TABLES)
def test_uniform_bits_cost_what_is_published(network, costs):
    """To the last digit, but for float sizes (which count more than weights), and 34.7 and 67.5 at 4 bits."""
    table = TABLES[network]
    for cell in table.cells:
        found = costs[table.name][cell.row, cell.column]
        if cell.row in ("float, 32 bits", "W8A8") and cell.column == "GBOPs":
            assert round(found) == cell.value
        assert found == pytest.approx(cell.value, rel=0.033)


def test_tables_that_do_not_fit_their_network_are_named():
    table = TABLES["resnet18"]
    with pytest.raises(InputError, match="hawq_resnet18_cost: bits: W8A8: found 2, expected 19 or one for all"):
        paper_costs([table.model_copy(update={"bits": {"W8A8": [8, 8]}})])
    with pytest.raises(InputError, match="network: found 'alexnet', expected one of resnet18, resnet50"):
        paper_costs([table.model_copy(update={"network": "alexnet"})])
