"""The integer graph: its nodes and their arithmetic, its file. Needs NumPy and the compiled module only."""

from oaq_repro.integer.graph.graph import Graph
from oaq_repro.integer.graph.nodes import (
    OPERATORS,
    Add,
    AvgPool,
    CodeNode,
    Concat,
    Conv,
    Dequantize,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Node,
    QParams,
    Quantize,
    Requantize,
    Resize,
    ResizeNearest,
    pool_multiplier,
)

__all__ = [
    "OPERATORS", "Add", "AvgPool", "CodeNode", "Concat", "Conv", "Dequantize", "Flatten", "GlobalAvgPool", "Graph",
    "Layer", "Linear", "MaxPool", "Node", "QParams", "Quantize", "Requantize", "Resize", "ResizeNearest",
    "pool_multiplier",
]  # fmt: skip
