"""Valid random integer graphs and images: every operator in every odd shape, small enough to run in milliseconds.

The same seed gives the same graph. Every value is read by another node or is an output, so that no error stays unseen.
"""

from collections.abc import Callable

import numpy as np

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.integer import graph as ir

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)
SIZES = (1, 2, 3, 5, 6, 7, 8, 9, 11)
LARGEST_VALUE = 4000  # elements of one image's value
LARGEST_WORK = 200_000  # products of one layer on one image
POLICIES = (*NAMED.values(), Accumulator(bits=12, lanes=3), Accumulator(bits=24, overflow="saturate"))


def random_graph(seed: int, steps: int | None = None) -> tuple[ir.Graph, tuple[int, int, int]]:
    """A graph of `steps` nodes (default: 3 to 12) beside input and outputs, and the shape [C, H, W] of its images.

    Layers have accumulators of all kinds; take `graph.with_accumulator` where one is wanted.
    """
    return _Builder(np.random.default_rng(seed)).build(steps)


def random_images(rng: np.random.Generator, count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """float32 images [count, C, H, W] that reach all codes of a graph's input and go beyond at both ends."""
    images = rng.normal(scale=2.0, size=(count, *shape)) * rng.choice([0.3, 1.0, 1.0, 3.0], (count, 1, 1, 1))
    return images.astype(np.float32)


class _Builder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[ir.Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.q: dict[str, ir.QParams] = {}
        # Scales that are small fractions of one number: their quotients make many halves, exact and almost exact.
        self.unit = float(rng.choice([1.0, rng.uniform(0.5, 1)]))
        self.fractions = bool(rng.random() < 0.7)

    def build(self, steps: int | None) -> tuple[ir.Graph, tuple[int, int, int]]:
        rng = self.rng
        shape = (int(rng.choice(CHANNELS[:7])), int(rng.choice(SIZES[3:])), int(rng.choice(SIZES[3:])))
        self.shapes["image"] = shape
        self._append(ir.Quantize("x", ("image",), self._qparams(4 / 255)))
        wanted = int(rng.integers(3, 13)) if steps is None else steps
        makers: tuple[Callable[[str], ir.Node | None], ...] = (
            self._conv, self._conv, self._depthwise, self._conv_transpose, self._linear, self._add, self._multiply,
            self._concat, self._requantize, self._elementwise, self._max_pool, self._avg_pool, self._global_avg_pool,
            self._resize, self._resize_nearest, self._select, self._depth_to_space, self._flatten,
        )  # fmt: skip
        for _ in range(60 * wanted):
            if len(self.nodes) > wanted:
                break
            node = makers[rng.integers(len(makers))](f"n{len(self.nodes)}")
            if node is not None:
                self._append(node)
        read = {name for node in self.nodes for name in node.inputs}
        ends = [node.name for node in self.nodes if node.name not in read or rng.random() < 0.1]
        self.nodes.extend(ir.Dequantize(f"{name}.out", (name,)) for name in ends)
        outputs = [f"{name}.out" for name in ends]
        rng.shuffle(outputs)
        graph = ir.Graph("image", tuple(self.nodes), tuple(outputs))
        graph.validate()
        return graph, shape

    def _append(self, node: ir.Node) -> None:
        self.nodes.append(node)
        self.q[node.name] = node.output
        self.shapes[node.name] = node.output_shape([self.shapes[name] for name in node.inputs])

    def _source(self, rank: int | None) -> str | None:
        """A value of that rank, late ones more often."""
        found = [n.name for n in self.nodes if rank is None or len(self.shapes[n.name]) == rank]
        if not found:
            return None
        return found[max(self.rng.integers(len(found)), self.rng.integers(len(found)))]

    def _scale(self, about: float) -> np.float32:
        if not self.fractions:
            return np.float32(about * self.rng.uniform(0.7, 1.4))
        fraction = self.rng.choice([1, 1, 1, 3 / 4, 2 / 3, 4 / 5, 6 / 5, 4 / 3])
        return np.float32(self.unit * 2.0 ** np.round(np.log2(about)) * fraction)

    def _qparams(self, scale: float) -> ir.QParams:
        """QParams for values that `255 * scale` spans."""
        rng = self.rng
        q_max = int(rng.choice([255, 255, 255, rng.integers(40, 255), rng.integers(1, 40)]))
        zero_point = int(rng.choice([0, q_max, q_max // 2, rng.integers(0, q_max + 1)]))
        return ir.QParams(self._scale(scale * 255 / max(q_max, 100)), zero_point, q_max)

    def _near(self, source: ir.QParams) -> ir.QParams:
        """QParams for values of about the size that `source` has."""
        return self._qparams(float(source.scale) * self.rng.choice([0.5, 1.0, 1.0, 2.0]))

    def _pair(self, low: int, high: int) -> tuple[int, int]:
        return int(self.rng.integers(low, high + 1)), int(self.rng.integers(low, high + 1))

    def _constants(self, source: ir.QParams, shape: tuple[int, ...]) -> dict:
        """Weights of one style, and scales that let the results span the output's codes."""
        rng, outputs = self.rng, shape[0]
        style = rng.integers(4)
        weight = rng.integers(-128, 128, shape)
        if style == 1:
            weight = rng.integers(-9, 10, shape)
        elif style == 2:
            weight = np.where(rng.random(shape) < 0.7, 0, weight)
        elif style == 3:
            weight = rng.choice([-128, 127], shape)
        if rng.random() < 0.2:
            weight[rng.integers(outputs)] = 0
        spread = max(float(np.abs(weight).mean()), 1.0) * source.q_max * 0.4 * float(np.prod(shape[1:])) ** 0.5
        weight_scale = np.array([self._scale(0.01) for _ in range(outputs if rng.random() < 0.7 else 1)])
        weight_scale = np.ascontiguousarray(np.broadcast_to(weight_scale, outputs), np.float32)
        output = self._qparams(max(float(source.scale) * 0.01 * spread * 4 / 255, 2.0**-40))
        return {
            "output": output,
            "weight": weight.astype(np.int8),
            "bias": rng.normal(0, spread, outputs).astype(np.int32),
            "weight_scale": weight_scale,
            "multiplier": source.scale * weight_scale / output.scale,
            "accumulator": POLICIES[rng.integers(len(POLICIES))],
            "accumulator_reason": str(rng.choice(["", "first layer"])),
        }

    def _window(self, shape: tuple[int, ...], kernel: tuple[int, int], dilation: tuple[int, int]) -> dict | None:
        """Stride and padding, or None where the kernel does not fit."""
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        padding = tuple(int(self.rng.integers(0, r // 2 + 1)) for r in reach)
        ends = padding if self.rng.random() < 0.5 else tuple(int(self.rng.integers(0, r // 2 + 1)) for r in reach)
        if any(size + p + e < r for size, p, e, r in zip(shape[1:], padding, ends, reach, strict=True)):
            return None
        return {"stride": self._pair(1, 3), "padding": (*padding, *ends)}

    def _conv(self, name: str, depthwise: bool = False) -> ir.Node | None:
        x = self._source(3)
        if x is None:
            return None
        rng, channels = self.rng, self.shapes[x][0]
        groups = channels if depthwise else int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
        groups = groups if depthwise or rng.random() < 0.5 else 1
        outputs = groups * (int(rng.integers(1, 3)) if groups > 1 else int(rng.choice(CHANNELS)))
        kernel = (1, 1) if rng.random() < 0.3 and not depthwise else self._pair(1, 4)
        dilation = (1, 1) if rng.random() < 0.6 else self._pair(1, 3)
        window = self._window(self.shapes[x], kernel, dilation)
        work = outputs * channels // groups * kernel[0] * kernel[1] * self.shapes[x][1] * self.shapes[x][2]
        if window is None or work > LARGEST_WORK:
            return None
        constants = self._constants(self.q[x], (outputs, channels // groups, *kernel))
        return ir.Conv(name, (x,), dilation=dilation, groups=groups, **window, **constants)

    def _depthwise(self, name: str) -> ir.Node | None:
        return self._conv(name, depthwise=True)

    def _conv_transpose(self, name: str) -> ir.Node | None:
        x, rng = self._source(3), self.rng
        if x is None:
            return None
        channels, height, width = self.shapes[x]
        groups = channels if rng.random() < 0.3 else 1
        outputs = groups * int(rng.integers(1, 3)) if groups > 1 else int(rng.choice(CHANNELS[:8]))
        kernel, stride = self._pair(1, 4), self._pair(1, 3)
        dilation = (1, 1) if rng.random() < 0.7 else self._pair(1, 3)
        most = [max(s, d) for s, d in zip(stride, dilation, strict=True)]
        constants = self._constants(self.q[x], (outputs, channels // groups, *kernel))
        node = ir.ConvTranspose(
            name, (x,), stride=stride, padding=tuple(int(n) for n in rng.integers(0, 3, 4)), dilation=dilation,
            groups=groups, output_padding=tuple(int(rng.integers(0, n)) for n in most), **constants,
        )  # fmt: skip
        sizes = node.sizes(height, width)
        work = outputs * channels // groups * kernel[0] * kernel[1] * height * width
        if min(sizes) < 1 or work > LARGEST_WORK or outputs * sizes[0] * sizes[1] > LARGEST_VALUE:
            return None
        return node

    def _linear(self, name: str) -> ir.Node | None:
        x = self._source(1)
        if x is None:
            return None
        outputs = int(self.rng.choice(CHANNELS))
        return ir.Linear(name, (x,), **self._constants(self.q[x], (outputs, self.shapes[x][0])))

    def _add(self, name: str) -> ir.Node | None:
        a = self._source(None)
        equal = [n for n, shape in self.shapes.items() if n != "image" and shape == self.shapes[a]]
        b = equal[self.rng.integers(len(equal))]
        return ir.Add(name, (a, b), self._near(self.q[a]))

    def _multiply(self, name: str) -> ir.Node | None:
        a = self._source(None)
        shape = self.shapes[a]
        fits = (shape, (shape[0], 1, 1)) if len(shape) == 3 else (shape,)
        found = [n for n, other in self.shapes.items() if n != "image" and other in fits]
        single = [n for n in found if self.shapes[n] != shape]  # one factor per channel: rare, so preferred
        b = (single or found)[self.rng.integers(len(single or found))]
        scale = float(self.q[a].scale) * float(self.q[b].scale) * self.q[b].q_max
        pair = (a, b) if self.rng.random() < 0.7 else (b, a)
        return ir.Multiply(name, pair, self._qparams(max(scale * self.rng.choice([0.25, 1.0]), 2.0**-40)))

    def _concat(self, name: str) -> ir.Node | None:
        a = self._source(None)
        fit = [n for n, shape in self.shapes.items() if n != "image" and shape[1:] == self.shapes[a][1:]]
        fit = [n for n in fit if len(self.shapes[n]) == len(self.shapes[a])]
        inputs = [a, *(fit[i] for i in self.rng.integers(len(fit), size=self.rng.integers(0, 3)))]
        self.rng.shuffle(inputs)
        if sum(int(np.prod(self.shapes[n])) for n in inputs) > LARGEST_VALUE:
            return None
        output = self.q[a] if self.rng.random() < 0.5 else self._near(self.q[a])  # a copy where QParams are equal
        return ir.Concat(name, tuple(inputs), output)

    def _requantize(self, name: str) -> ir.Node | None:
        x = self._source(None)
        output = self.q[x] if self.rng.random() < 0.1 else self._near(self.q[x])
        return ir.Requantize(name, (x,), output)

    def _elementwise(self, name: str) -> ir.Node | None:
        x, output = self._source(None), self._near(self.q[self._source(None)])
        table = self.rng.integers(0, output.q_max + 1, 256).astype(np.uint8)
        if self.rng.random() < 0.5:
            table.sort()
        return ir.Elementwise(name, (x,), output, table)

    def _max_pool(self, name: str) -> ir.Node | None:
        x = self._source(3)
        if x is None:
            return None
        kernel, dilation = self._pair(1, 3), self._pair(1, 2)
        window = self._window(self.shapes[x], kernel, dilation)
        if window is None:
            return None
        ceil_mode = bool(self.rng.random() < 0.4)
        return ir.MaxPool(name, (x,), self.q[x], kernel, dilation=dilation, ceil_mode=ceil_mode, **window)

    def _avg_pool(self, name: str) -> ir.Node | None:
        x = self._source(3)
        if x is None:
            return None
        kernel = self._pair(1, 4)
        window = self._window(self.shapes[x], kernel, (1, 1))
        if window is None:
            return None
        return ir.AvgPool(
            name, (x,), self._near(self.q[x]), kernel, **window, count_include_pad=bool(self.rng.random() < 0.5)
        )

    def _global_avg_pool(self, name: str) -> ir.Node | None:
        x = self._source(3)
        if x is None or self.rng.random() < 0.5:  # it ends the fun for what follows
            return None
        return ir.GlobalAvgPool(name, (x,), self._near(self.q[x]), keepdims=bool(self.rng.random() < 0.5))

    def _resize(self, name: str) -> ir.Node | None:
        x, like = self._source(3), self._source(3)
        if x is None or self.shapes[x][0] * self.shapes[like][1] * self.shapes[like][2] > LARGEST_VALUE:
            return None
        align_corners = bool(self.rng.random() < 0.5)
        if self.rng.random() < 0.5:
            return ir.Resize(name, (x, like), self.q[x], align_corners)
        before, after = self.shapes[x][1:], self.shapes[like][1:]
        return ir.Resize(name, (x,), self.q[x], align_corners, (after[0], before[0], after[1], before[1]))

    def _resize_nearest(self, name: str) -> ir.Node | None:
        x, rng = self._source(3), self.rng
        if x is None:
            return None
        factor = tuple(int(rng.integers(1, 6)) for _ in range(4))
        channels, height, width = self.shapes[x]
        sizes = height * factor[0] // factor[1], width * factor[2] // factor[3]
        if min(sizes) < 1 or channels * sizes[0] * sizes[1] > LARGEST_VALUE:
            return None
        return ir.ResizeNearest(name, (x,), self.q[x], factor, str(rng.choice(["floor", "half_pixel"])))

    def _select(self, name: str) -> ir.Node | None:
        x, rng = self._source(None), self.rng
        count = self.shapes[x][0]
        channels = rng.integers(0, count, rng.integers(1, 2 * count + 1))  # some twice
        if rng.random() < 0.3:
            first = int(rng.integers(count))
            channels = np.arange(first, int(rng.integers(first + 1, count + 1)))
        elif rng.random() < 0.5:
            channels = rng.permutation(count)
        if len(channels) * np.prod(self.shapes[x][1:]) > LARGEST_VALUE:
            return None
        return ir.Select(name, (x,), self.q[x], channels.astype(np.int64))

    def _depth_to_space(self, name: str) -> ir.Node | None:
        x = self._source(3)
        fits = [] if x is None else [b for b in (1, 2, 3, 4) if self.shapes[x][0] % b**2 == 0]
        return ir.DepthToSpace(name, (x,), self.q[x], int(self.rng.choice(fits))) if fits else None

    def _flatten(self, name: str) -> ir.Node | None:
        x = self._source(None)
        if np.prod(self.shapes[x]) > 600:
            return None
        return ir.Flatten(name, (x,), self.q[x], keepdims=bool(self.rng.random() < 0.3))
