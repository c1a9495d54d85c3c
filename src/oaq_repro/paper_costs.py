"""What the bits of published networks cost by our formulas: rows of the paper's tables that need no data."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from timm.models.resnet import Bottleneck
from torch import nn

from oaq_repro.errors import InputError
from oaq_repro.models.backbones import create
from oaq_repro.quant.mixed_precision.cost import LayerCost, layer_costs, network_cost
from oaq_repro.results.paper import PaperTable
from oaq_repro.results.paper_tables import Costs

IMAGE = (3, 224, 224)
FLOAT, END = 32, 8
"""Bits of a float network; of the first and last layer of any other."""


def _first_resnet50() -> nn.Module:
    """With the stride in a block's 1x1 convolution (He et al., 2016, arXiv 1512.03385), as HAWQ-V3 counts it."""
    network = create("resnet50", 1.0, 1000, 3)
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: create("resnet18", 1.0, 1000, 3),
    "resnet50": _first_resnet50,
}


def paper_costs(tables: Iterable[PaperTable]) -> dict[str, Costs]:
    """Of all tables of kind `cost`, by name: megabytes (2^20) and 10^9 bit operations, by row and column.

    InputError for a network that is not in NETWORKS, and for another number of layers.
    """
    return {table.name: _costs(table) for table in tables if table.kind == "cost"}


def _costs(table: PaperTable) -> Costs:
    assert table.network is not None and table.bits is not None
    if table.network not in NETWORKS:
        raise InputError(f"{table.name}: network: found {table.network!r}, expected one of {', '.join(NETWORKS)}")
    layers = layer_costs(NETWORKS[table.network]().eval(), IMAGE)
    found: dict[tuple[str, str], float] = {}
    for row, bits in table.bits.items():
        each = [bits] * (len(layers) - 2) if isinstance(bits, int) else bits
        if len(each) != len(layers) - 2:
            raise InputError(f"{table.name}: bits: {row}: found {len(each)}, expected {len(layers) - 2} or one for all")
        end = FLOAT if set(each) == {FLOAT} else END
        cost = network_cost(_with_bits(layers, [end, *each, end]))
        found |= {(row, "MB"): cost.weight_bytes / 2**20, (row, "GBOPs"): cost.bops / 1e9}
    return found


def _with_bits(layers: Sequence[LayerCost], bits: Sequence[int]) -> list[LayerCost]:
    return [replace(layer, bits_weight=b, bits_input=b) for layer, b in zip(layers, bits, strict=True)]
