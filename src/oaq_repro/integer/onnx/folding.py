"""Constants of an ONNX model, also those that nodes make of other constants; read and computed when asked for.

Nodes are computed by ONNX's reference implementation: only operators that lay values out anew, convert or quantize
them, so that a small file cannot make a large array.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator

from oaq_repro.errors import InputError
from oaq_repro.integer.graph.arithmetic import Array
from oaq_repro.integer.onnx.constants import value_of
from oaq_repro.integer.onnx.reader import MICROSOFT, OnnxNode, plain
from oaq_repro.integer.onnx.tensors import READABLE, array

LAYOUT = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
FOLDED = LAYOUT | {"Cast", "Clip", "DequantizeLinear", "QuantizeLinear"}
LONGEST_CHAIN = 32
_OPSET_OF_MICROSOFT = 21  # what QuantizeLinear of that domain can do, ONNX's can since then


class Constants:
    """The constants of a model whose file lies in `folder`."""

    def __init__(self, proto: onnx.ModelProto, nodes: Sequence[OnnxNode], folder: Path, opset: int) -> None:
        self._folder, self._opset = folder, opset
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name}
        self._made: dict[str, OnnxNode] = {}  # by the first output, in the order of the model
        for node in nodes:
            given = [name for name in node.inputs if name]
            folded = plain(node.op) in FOLDED and given and all(name in self for name in given)
            if node.outputs and node.outputs[0] and (folded or node.op == "Constant"):
                self._made.setdefault(node.outputs[0], node)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._made

    def maker(self, name: str) -> OnnxNode | None:
        """The node that makes a constant of others; None for a tensor of the file."""
        return self._made.get(name)

    def get(self, name: str) -> Array | None:
        """The values of a constant, None where the name is of none; InputError where they cannot be had."""
        return self._value(name, {}, 0) if name in self else None

    def scalar(self, name: str) -> Array | None:
        """As `get`, as a 0-dimensional array; InputError where there is not one value."""
        found = self.get(name)
        if found is not None and found.size != 1:
            raise InputError(f"constant {name!r}: found {found.size} values, expected one")
        return None if found is None else found.reshape(())

    def run(self, node: OnnxNode, inputs: Sequence[Array | None]) -> Array:
        """The first output of a node of one of the operators `FOLDED`, of a model's constants."""
        return self._run(node, inputs)

    def _value(self, name: str, known: dict[str, Array], depth: int) -> Array:
        if name not in known:
            if name in self._tensors:
                known[name] = array(name, self._tensors[name], READABLE, self._folder)
            else:
                node = self._made[name]
                if depth > LONGEST_CHAIN:
                    raise InputError(f"constant {name!r}: found more than {LONGEST_CHAIN} nodes that make it")
                inputs = [self._value(x, known, depth + 1) if x else None for x in node.inputs]
                known[name] = value_of(node, READABLE) if node.op == "Constant" else self._run(node, inputs)
        return known[name]

    def _run(self, node: OnnxNode, inputs: Sequence[Array | None]) -> Array:
        opset = self._opset
        if node.op.startswith(MICROSOFT):
            opset = max(opset, _OPSET_OF_MICROSOFT)
        return evaluate(node, inputs, opset)


def evaluate(node: OnnxNode, inputs: Sequence[Array | None], opset: int) -> Array:
    """The first output of a node for these inputs (None: left out); InputError where it cannot be computed."""
    alone = NodeProto(op_type=plain(node.op), attribute=node.attributes.values(), output=["y"])
    alone.input.extend(f"x{at}" if value is not None else "" for at, value in enumerate(inputs))
    feeds = {f"x{at}": value for at, value in enumerate(inputs) if value is not None}
    try:
        with np.errstate(all="ignore"):
            (found,) = ReferenceEvaluator(alone, opsets={"": opset}).run(None, feeds)
        return np.asarray(found)
    except Exception as error:  # of any kind: the model's author chose the operands
        raise node.error(f"cannot be computed from its constants ({error})") from error
