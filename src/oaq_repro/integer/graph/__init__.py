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
    Elementwise,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    Lookup,
    MaxPool,
    Multiply,
    Node,
    QParams,
    Quantize,
    Requantize,
    Resize,
    ResizeNearest,
    Select,
    multiply_multiplier,
    pool_multiplier,
)

__all__ = [
    "Add", "AvgPool", "CodeNode", "Concat", "Conv", "Dequantize", "Elementwise", "Flatten", "GlobalAvgPool",
    "Graph", "Layer", "Linear", "Lookup", "MaxPool", "Multiply", "Node", "OPERATORS", "QParams", "Quantize",
    "Requantize", "Resize", "ResizeNearest", "Select", "multiply_multiplier", "pool_multiplier",
]  # fmt: skip
