"""The integer graph: its nodes and their arithmetic, its file. Needs NumPy and the compiled module only."""

from oaq_repro.integer.graph.graph import Graph as Graph
from oaq_repro.integer.graph.nodes import *  # noqa: F403  (operators are listed in one place)
