"""The operators of an integer graph: a file each, or one for a family. `OPERATORS` lists them by the name in files."""

from oaq_repro.integer.graph.arithmetic import QParams
from oaq_repro.integer.graph.nodes.add import Add
from oaq_repro.integer.graph.nodes.base import CodeNode, Node, Shape
from oaq_repro.integer.graph.nodes.concat import Concat
from oaq_repro.integer.graph.nodes.flatten import Flatten
from oaq_repro.integer.graph.nodes.layers import Conv, Layer, Linear
from oaq_repro.integer.graph.nodes.pool import AvgPool, GlobalAvgPool, MaxPool, pool_multiplier
from oaq_repro.integer.graph.nodes.quantize import Dequantize, Quantize, Requantize
from oaq_repro.integer.graph.nodes.resize import Resize, ResizeNearest

__all__ = [
    "OPERATORS", "Add", "AvgPool", "CodeNode", "Concat", "Conv", "Dequantize", "Flatten", "GlobalAvgPool", "Layer",
    "Linear", "MaxPool", "Node", "QParams", "Quantize", "Requantize", "Resize", "ResizeNearest", "Shape",
    "pool_multiplier",
]  # fmt: skip

OPERATORS: dict[str, type[Node]] = {
    operator.__name__: operator
    for operator in (
        Quantize, Conv, Linear, Add, Concat, Requantize, MaxPool, AvgPool, GlobalAvgPool, Resize, ResizeNearest,
        Flatten, Dequantize,
    )
}  # fmt: skip
