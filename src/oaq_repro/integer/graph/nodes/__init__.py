"""The operators of an integer graph: a file each, or one for a family. `OPERATORS` lists them by the name in files."""

from oaq_repro.integer.graph.arithmetic import QParams as QParams
from oaq_repro.integer.graph.nodes.add import Add
from oaq_repro.integer.graph.nodes.base import CodeNode as CodeNode
from oaq_repro.integer.graph.nodes.base import Node
from oaq_repro.integer.graph.nodes.base import RoundingNode as RoundingNode
from oaq_repro.integer.graph.nodes.base import Shape as Shape
from oaq_repro.integer.graph.nodes.concat import Concat
from oaq_repro.integer.graph.nodes.conv import Conv, ConvTranspose
from oaq_repro.integer.graph.nodes.conv import Convolution as Convolution
from oaq_repro.integer.graph.nodes.depth_to_space import DepthToSpace
from oaq_repro.integer.graph.nodes.flatten import Flatten
from oaq_repro.integer.graph.nodes.layers import Layer as Layer
from oaq_repro.integer.graph.nodes.layers import Linear
from oaq_repro.integer.graph.nodes.layers import Part as Part
from oaq_repro.integer.graph.nodes.lookup import Elementwise, Requantize
from oaq_repro.integer.graph.nodes.lookup import Lookup as Lookup
from oaq_repro.integer.graph.nodes.multiply import Multiply
from oaq_repro.integer.graph.nodes.multiply import multiply_multiplier as multiply_multiplier
from oaq_repro.integer.graph.nodes.pool import AvgPool, GlobalAvgPool, MaxPool
from oaq_repro.integer.graph.nodes.pool import pool_multiplier as pool_multiplier
from oaq_repro.integer.graph.nodes.quantize import Dequantize, Quantize
from oaq_repro.integer.graph.nodes.resize import Resize, ResizeNearest
from oaq_repro.integer.graph.nodes.select import Select

OPERATORS: dict[str, type[Node]] = {
    operator.__name__: operator
    for operator in (
        Quantize, Conv, ConvTranspose, Linear, Add, Multiply, Concat, Requantize, Elementwise, MaxPool, AvgPool,
        GlobalAvgPool, Resize, ResizeNearest, Flatten, Select, DepthToSpace, Dequantize,
    )
}  # fmt: skip
