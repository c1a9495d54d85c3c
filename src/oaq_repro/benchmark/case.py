"""A network to time, in every form that a variant needs, and the results that it has to give."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from oaq_repro.accumulator import NAMED
from oaq_repro.benchmark.networks import ARCHITECTURES, float_network, images, integer_graph
from oaq_repro.files import write_atomic
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.reference import Reference
from oaq_repro.integer.saturation import with_saturating_pairs

ONNX_OPSET = 17
Sums = Literal["oaq", "fixed16", "int8", "pairs"]
"""The ranges, on 32-bit sums; fixed16, which has none, on its own; `int8` on sums of saturated pairs (`pairs`)."""


class Case:
    """folder: where graphs and the float network's ONNX file are kept for the next time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        # One of the images that settling saw: `oaq` promises the results of 32 bits for them.
        self.image: Array = images(name)[:1].numpy()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """[C, H, W]."""
        return ARCHITECTURES[self.name].input_shape

    @cached_property
    def oaq(self) -> Graph:
        """With the ranges that settling gives."""
        return integer_graph(self.name, "oaq", self.folder)

    @cached_property
    def int8(self) -> Graph:
        """With plain 8-bit ranges."""
        return integer_graph(self.name, "int8", self.folder)

    @cached_property
    def fixed16(self) -> Graph:
        """With the ranges that settling gives where requantization is fixed16."""
        return integer_graph(self.name, "fixed16", self.folder)

    @cached_property
    def network(self) -> nn.Module:
        """In float32."""
        return float_network(self.name)

    def expected(self, sums: Sums) -> tuple[Array, ...]:
        """Outputs of the reference."""
        if sums not in self._expected:
            self._expected[sums] = Reference(self._graph(sums)).run(self.image).outputs
        return self._expected[sums]

    def _graph(self, sums: Sums) -> Graph:
        if sums == "fixed16":
            return self.fixed16
        graph = (self.oaq if sums == "oaq" else self.int8).with_accumulator(NAMED["int32"])
        return with_saturating_pairs(graph) if sums == "pairs" else graph

    @cached_property
    def _expected(self) -> dict[str, tuple[Array, ...]]:
        return {}

    @cached_property
    def float_outputs(self) -> tuple[Array, ...]:
        """Outputs of the float network."""
        with torch.no_grad():
            outputs = self.network(torch.from_numpy(self.image))
        return tuple(output.numpy() for output in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs))

    @cached_property
    def float_onnx(self) -> Path:
        """The float network as an ONNX file."""
        path = self.folder / f"{self.name}_fp32.onnx"
        return path if path.exists() else write_atomic(path, self._export)

    def _export(self, path: Path) -> None:
        image = torch.from_numpy(self.image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the newer exporter needs another package
            torch.onnx.export(self.network, (image,), str(path), opset_version=ONNX_OPSET, dynamo=False)

    @property
    def macs(self) -> int:
        """Products of one image."""
        return macs(self.oaq, self.input_shape)


def macs(graph: Graph, input_shape: Sequence[int]) -> int:
    """Products of all layers, one image."""
    shapes = graph.shapes(input_shape)
    return sum(layer.products(shapes[layer.name]) for layer in graph.layers())
