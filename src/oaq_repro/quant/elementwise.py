"""Functions of one number, element by element, as tables of codes.

Whatever torch calls elementwise has a quantized form: the table holds the output code of every input code, so that one
integer operator (`Elementwise`) is hardswish, sigmoid, GELU and `x / 6` alike, exact everywhere.
"""

import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from oaq_repro.quant.conversion.trace import tensor_inputs
from oaq_repro.quant.modules import QuantRequantize, Value
from oaq_repro.quant.numerics import QParams, QTensor
from oaq_repro.quant.quantizers import ActivationQuantizer

CODES = 256
SAME = 1e-3  # values of a function that differ less; below half a step where it spans a quarter and more
FARTHEST, PER_UNIT = 64, 64  # from zero, and places in each unit, at which a function is looked at

MODULES = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid,
    nn.Mish, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
    nn.Threshold,
)  # fmt: skip
FUNCTIONS = frozenset({"hardswish", "logsigmoid", "relu6", "softsign", "tanhshrink", "truediv"})
"""Names of those that torch's own mark (`torch.Tag.pointwise`) leaves out."""
NOT_FUNCTIONS = frozenset({"frexp", "max", "min", "rrelu", "where"})
"""Names whose mark is about more than one tensor, or which are random in training."""


class QuantElementwise(QuantRequantize):
    """A function of one number, with an output quantizer of its own.

    `function`: a module that maps a float32 tensor to one of the same shape, element by element. Where it has no value
    (the logarithm of a negative number) the code is that of zero.
    """

    def __init__(self, output: ActivationQuantizer, function: nn.Module) -> None:
        super().__init__(output)
        self.function = function

    def table(self, x: QParams) -> Tensor:
        """Output code of every input code, integer-valued float32 [256]."""
        codes = torch.arange(CODES, dtype=torch.float32, device=x.scale.device)
        scale, zero_point, q_max = self.output.parameters_of_range()
        ratio = self._real(QTensor(codes, *x)) / scale
        return self.output.encode(ratio, scale, zero_point, q_max).codes

    def forward(self, x: Value) -> Value:
        """Codes from the table. In training the formula itself, which has the function's gradient."""
        if not isinstance(x, QTensor):
            return self._finish(self.function(x.clone()))  # it may work in place
        if self.training:
            return self.output.quantize_real(self._real(x))
        with torch.no_grad():
            codes = self.table(x.qparams)[x.codes.long()]
        if x.codes.requires_grad:
            smooth = self.output.quantize_real(self._real(x)).codes
            codes = codes + (smooth - smooth.detach())
        return QTensor(codes, *self.output.parameters_of_range())

    def _real(self, x: QTensor) -> Tensor:
        return torch.nan_to_num(self.function(x.dequantize()).to(torch.float32))


class _Call(nn.Module):
    """A call of a function or method with one tensor among its arguments, as a module."""

    def __init__(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.target, self.args, self.kwargs = target, args, kwargs

    def forward(self, x: Tensor) -> Tensor:
        args, kwargs = fx.node.map_aggregate(
            (self.args, self.kwargs), lambda a: x if isinstance(a, str) and a == _TENSOR else a
        )
        if isinstance(self.target, str):
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


_TENSOR = "\0tensor"  # its place among the arguments


@torch.no_grad()
def constant_beyond(function: nn.Module) -> tuple[float, float]:
    """Real numbers below and above which a function is constant to `SAME`: hardswish (-3, inf), hardsigmoid (-3, 3).

    Infinite where it is not, or has parameters that training may move.
    """
    if any(True for _ in function.parameters()):
        return -math.inf, math.inf
    x = torch.linspace(-FARTHEST, FARTHEST, 2 * FARTHEST * PER_UNIT + 1)
    y = function(x.clone()).to(torch.float32)
    left, right = ((y - end).abs() > SAME for end in (y[0], y[-1]))
    if not (torch.isfinite(y).all() and left.any() and right.any()):
        return -math.inf, math.inf
    first, last = max(int(left.nonzero()[0]) - 1, 0), min(int(right.nonzero()[-1]) + 1, len(x) - 1)
    low, high = float(x[first]), float(x[last])  # a slow slope is no constant: that lasts for as long again
    return low if low > -FARTHEST / 2 else -math.inf, high if high < FARTHEST / 2 else math.inf


def elementwise_function(node: fx.Node, module: nn.Module | None) -> nn.Module | None:
    """The function of one number that a node computes, as a module; None where it computes something else."""
    if isinstance(module, fx.GraphModule):  # composed of several (compose.py)
        return module
    if module is not None:
        single = isinstance(module, nn.PReLU) and module.num_parameters == 1
        return module if single or isinstance(module, MODULES) else None
    if len(tensor_inputs(node)) != 1 or not is_pointwise_call(node):
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: _TENSOR)
    return _Call(node.target, args, kwargs)


def is_pointwise_call(node: fx.Node) -> bool:
    """Whether a node is a call of a function or method that works element by element on any number of tensors."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = str(getattr(node.target, "__name__", node.target)).removesuffix("_")
    return name in FUNCTIONS or (name not in NOT_FUNCTIONS and _is_pointwise(name))


def _is_pointwise(name: str) -> bool:
    """Whether torch says so of an operator; also of those of Python (`mul`, `imul`)."""
    for known in (name, name.removeprefix("i")):
        packet = getattr(torch.ops.aten, known, None)
        if packet is not None and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads()):
            return True
    return False
