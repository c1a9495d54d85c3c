"""The operators of an integer graph: a file each, or one for a family. `OPERATORS` lists them by the name in files."""

from oaq_repro.integer.graph.arithmetic import QParams
from oaq_repro.integer.graph.nodes.add import Add
from oaq_repro.integer.graph.nodes.base import CodeNode, Node, Shape
from oaq_repro.integer.graph.nodes.concat import Concat
from oaq_repro.integer.graph.nodes.flatten import Flatten
from oaq_repro.integer.graph.nodes.layers import Conv, Layer, Linear
from oaq_repro.integer.graph.nodes.lookup import Elementwise, Lookup, Requantize
from oaq_repro.integer.graph.nodes.multiply import Multiply, multiply_multiplier
from oaq_repro.integer.graph.nodes.pool import AvgPool, GlobalAvgPool, MaxPool, pool_multiplier
from oaq_repro.integer.graph.nodes.quantize import Dequantize, Quantize
from oaq_repro.integer.graph.nodes.resize import Resize, ResizeNearest
from oaq_repro.integer.graph.nodes.select import Select

__all__ = [
    "Add", "AvgPool", "CodeNode", "Concat", "Conv", "Dequantize", "Elementwise", "Flatten", "GlobalAvgPool",
    "Layer", "Linear", "Lookup", "MaxPool", "Multiply", "Node", "OPERATORS", "QParams", "Quantize", "Requantize",
    "Resize", "ResizeNearest", "Select", "Shape", "multiply_multiplier", "pool_multiplier",
]  # fmt: skip

OPERATORS: dict[str, type[Node]] = {
    operator.__name__: operator
    for operator in (
        Quantize, Conv, Linear, Add, Multiply, Concat, Requantize, Elementwise, MaxPool, AvgPool, GlobalAvgPool, Resize,
        ResizeNearest, Flatten, Select, Dequantize,
    )
}  # fmt: skip
