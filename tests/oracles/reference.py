"""What the kernel has to compute, written a second time in Python integers, and small graphs for tests."""

from types import SimpleNamespace

import numpy as np

from oaq_repro.accumulator import Accumulator
from oaq_repro.integer.graph import Conv, Dequantize, Graph, Linear, QParams, Quantize


def split(products: list[int], policy: Accumulator) -> list[int]:
    """Partial sums of a list of products in the order of k."""
    if policy.block is not None:
        return [sum(products[i : i + policy.block]) for i in range(0, len(products), policy.block)]
    return [sum(products[lane :: policy.lanes]) for lane in range(policy.lanes)]


def accumulate(codes: list[int], weights: list[int], z: int, policy: Accumulator) -> tuple[int, bool, int, int]:
    """One output: (acc, overflow event, smallest, largest partial sum)."""
    saturate = policy.overflow == "saturate"
    taken = [a if saturate else a - z for a in codes]
    parts = split([a * w for a, w in zip(taken, weights, strict=True)], policy)
    event = any(not policy.minimum <= p <= policy.maximum for p in parts)
    if saturate:
        acc = sum(min(max(p, policy.minimum), policy.maximum) for p in parts) - z * sum(weights)
    else:
        span = 1 << policy.bits
        acc = sum((p - policy.minimum) % span + policy.minimum for p in parts)
    return (acc + 2**31) % 2**32 - 2**31, event, min(parts), max(parts)


def conv2d(x, weight, z, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, policy=None):
    """The kernel's result by loops over everything: x uint8 NHWC, weight int8 [O, kh, kw, I / groups]."""
    policy = policy or Accumulator()
    n, height, width, _ = x.shape
    outputs, kh, kw, depth = weight.shape
    top, left, bottom, right = padding * 2 if len(padding) == 2 else padding
    oh = (height + top + bottom - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + left + right - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    acc = np.zeros((n, oh, ow, outputs), np.int32)
    events = np.zeros((n, oh, ow, outputs), np.uint8)
    lowest = highest = 0
    for image, row, column, o in np.ndindex(acc.shape):
        first = o // (outputs // groups) * depth
        codes = []
        for ky, kx, c in np.ndindex(kh, kw, depth):
            y = row * stride[0] - top + ky * dilation[0]
            x_ = column * stride[1] - left + kx * dilation[1]
            inside = 0 <= y < height and 0 <= x_ < width
            codes.append(int(x[image, y, x_, first + c]) if inside else z)
        weights = [int(w) for w in weight[o].reshape(-1)]
        value, event, low, high = accumulate(codes, weights, z, policy)
        acc[image, row, column, o], events[image, row, column, o] = value, event
        lowest, highest = min(lowest, low), max(highest, high)
    return acc, events, lowest, highest


def q(scale: float = 1.0, zero_point: int = 0, q_max: int = 255) -> QParams:
    return QParams(np.float32(scale), zero_point, q_max)


def constants(source: QParams, output: QParams, weight_scale, bias) -> dict:
    """Constants of a layer that agree with its QParams."""
    weight_scale = np.asarray(weight_scale, np.float32)
    multiplier = (source.scale * weight_scale / output.scale).astype(np.float32)
    return {"weight_scale": weight_scale, "multiplier": multiplier, "bias": np.asarray(bias, np.int32)}


def conv(name, x, source, output, weight, bias=None, weight_scale=None, **fields) -> Conv:
    outputs = len(weight)
    scale = np.full(outputs, 0.01) if weight_scale is None else weight_scale
    defaults = {
        "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "accumulator": Accumulator(bits=32),
    }  # fmt: skip
    numbers = constants(source, output, scale, np.zeros(outputs) if bias is None else bias)
    return Conv(name, (x,), output, weight=np.asarray(weight, np.int8), **numbers, **(defaults | fields))


def linear(name, x, source, output, weight, bias=None, weight_scale=None, accumulator=None) -> Linear:
    outputs = len(weight)
    scale = np.full(outputs, 0.01) if weight_scale is None else weight_scale
    numbers = constants(source, output, scale, np.zeros(outputs) if bias is None else bias)
    policy = accumulator or Accumulator(bits=32)
    return Linear(name, (x,), output, weight=np.asarray(weight, np.int8), **numbers, accumulator=policy)


def around(*nodes, source: QParams, outputs: tuple[str, ...] | None = None) -> Graph:
    """A graph: Quantize 'x' with `source`, then the nodes, then Dequantize of `outputs` (default: the last node)."""
    names = outputs or ((nodes[-1].name if nodes else "x"),)
    ends = tuple(Dequantize(f"{name}.out", (name,)) for name in names)
    return Graph("image", (Quantize("x", ("image",), source), *nodes, *ends), tuple(end.name for end in ends))


def small_network(seed: int = 0, accumulator: Accumulator | None = None) -> SimpleNamespace:
    """A network of two heads, for images [N, 3, H, W] with H and W divisible by 4, and those images."""
    from oaq_repro.integer import graph as ir

    rng = np.random.default_rng(seed)
    fields = {"accumulator": accumulator or Accumulator(bits=32)}

    def weight(*shape):
        return rng.integers(-127, 128, shape)

    def bias(count):
        return rng.integers(-3000, 3000, count)

    def scale(count):
        return rng.uniform(0.001, 0.01, count)

    qx, q1, q2, q3, q4, q5 = q(0.02, 128), q(0.05), q(0.04, 100), q(0.07, 90, 180), q(0.06, 0, 85), q(0.3, 120)
    nodes = (
        conv("stem", "x", qx, q1, weight(8, 3, 3, 3), bias(8), scale(8), stride=(2, 2), padding=(1, 1), **fields),
        conv("depthwise", "stem", q1, q1, weight(8, 1, 3, 3), bias(8), scale(8), padding=(1, 1), groups=8, **fields),
        conv("project", "depthwise", q1, q2, weight(8, 8, 1, 1), bias(8), scale(8), **fields),
        ir.Add("add", ("project", "stem"), q3),
        ir.Requantize("relu", ("add",), q4),
        ir.MaxPool("pool", ("relu",), q4, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        conv("dilated", "pool", q4, q2, weight(6, 4, 3, 3), bias(6), scale(6),
             padding=(2, 2), dilation=(2, 2), groups=2, **fields),
        ir.Resize("resize", ("dilated", "relu"), q2, align_corners=False),
        ir.Concat("concat", ("resize", "relu", "add"), q3),
        ir.AvgPool("average", ("concat",), q2, kernel=(2, 2), stride=(2, 2)),
        ir.GlobalAvgPool("gap", ("average",), q5, keepdims=True),
        ir.Flatten("flatten", ("gap",), q5),
        linear("classifier", "flatten", q5, q3, weight(5, 22), bias(5), scale(5), fields["accumulator"]),
    )  # fmt: skip
    images = rng.normal(size=(5, 3, 16, 12)).astype(np.float32)
    return SimpleNamespace(graph=around(*nodes, source=qx, outputs=("classifier", "concat")), images=images)
