"""Small ONNX models for tests: written by hand, and quantized by ONNX Runtime's own tool."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = np.float32
THREE, SEVEN = np.uint8(3), np.uint8(7)


def node(op: str, inputs: list[str], output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=f"{output}.{op}", **attributes)


def model(nodes, constants, shape=("N", 3, 16, 16), outputs=("y",), opset=13) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def float_network(seed: int = 0, resize: str = "linear") -> onnx.ModelProto:
    """Residual, depthwise, pooled, gated, sliced, concatenated, resized, classified: images [N, 3, 16, 16]."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (rng.normal(size=shape) * 0.3).astype(F32)

    constants = {
        "w1": normal(8, 3, 3, 3), "b1": normal(8), "w2": normal(8, 8, 3, 3), "b2": normal(8), "wd": normal(8, 1, 3, 3),
        "two": np.array([2]), "seven": np.array([7]), "axis1": np.array([1]),
        "wf": normal(5, 21), "bf": normal(5), "zero": F32(0), "six": F32(6), "roi": np.zeros(0, F32),
        "scales": np.array([1, 1, 2, 2], F32), "w3": normal(4, 16, 1, 1),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1", "b1"], "c1", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c1"], "r1"),
        node("Conv", ["r1", "w2", "b2"], "c2", pads=[1] * 4),
        node("Add", ["c2", "r1"], "sum"),
        node("Relu", ["sum"], "r2"),
        node("MaxPool", ["r2"], "m", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
        node("Conv", ["m", "wd"], "d", group=8, pads=[1] * 4),
        node("Clip", ["d", "zero", "six"], "d6"),
        node("AveragePool", ["d6"], "a", kernel_shape=[2, 2], strides=[1, 1]),
        node("MaxPool", ["m"], "m2", kernel_shape=[2, 2], strides=[1, 1]),
        node("GlobalAveragePool", ["a"], "squeezed"),
        node("Sigmoid", ["squeezed"], "gate"),
        node("Mul", ["a", "gate"], "gated"),
        node("Slice", ["m2", "two", "seven", "axis1"], "some"),
        node("Concat", ["gated", "m2", "some"], "cat", axis=1),
        node("GlobalAveragePool", ["cat"], "g"),
        node("Flatten", ["g"], "f"),
        node("Gemm", ["f", "wf", "bf"], "y", transB=1),
        node("Resize", ["m", "roi", "scales"], "up", mode=resize),
        node("Concat", ["up", "r1"], "skip", axis=1),
        node("Conv", ["skip", "w3"], "mask"),
    ]
    return model(nodes, constants, outputs=("y", "mask"))


def quantized_network(folder, seed: int = 0, operators: bool = False, **options):
    """Path of `float_network`, quantized by onnxruntime.quantization.quantize_static: QDQ, or QOperator form."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    rng = np.random.default_rng(seed)

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": rng.normal(size=(4, 3, 16, 16)).astype(F32)} for _ in range(2)]

        def get_next(self):
            return self.left.pop() if self.left else None

    source, path = folder / "float.onnx", folder / "quantized.onnx"
    # fractions of codes are cut off in the QOperator form
    onnx.save(float_network(seed, "nearest" if operators else "linear"), source)
    form = QuantFormat.QOperator if operators else QuantFormat.QDQ
    quantize_static(source, path, Reader(), **({"quant_format": form} | options))
    return path


def qcdq_network(bits: int) -> onnx.ModelProto:
    """What brevitas exports: constant int8 weights -> Clip -> DequantizeLinear, Clip of codes below 8 bits."""
    rng = np.random.default_rng(0)
    largest = 2 ** (bits - 1) - 1
    constants = {
        "s": F32(0.03 * 2 ** (8 - bits)), "z": np.int8(0), "low": np.int8(-largest), "high": np.int8(largest),
        "least": np.int8(-largest - 1), "w": rng.integers(-largest - 1, largest + 1, (4, 3, 3, 3)).astype(np.int8),
        "ws": F32(0.02 * 2 ** (8 - bits)), "b": rng.integers(-300, 300, 4).astype(np.int32),
        "so": F32(0.2 * 2 ** (8 - bits)), "zo": np.uint8(0), "top": np.uint8(2**bits - 1), "bottom": np.uint8(0),
    }  # fmt: skip
    constants["bs"] = constants["s"] * constants["ws"]
    clipped = bits < 8
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "xq"),
        *([node("Clip", ["xq", "least", "high"], "xc")] if clipped else []),
        node("DequantizeLinear", ["xc" if clipped else "xq", "s", "z"], "xd"),
        node("Clip", ["w", "low", "high"], "wc"),
        node("DequantizeLinear", ["wc", "ws", "z"], "wd"),
        node("DequantizeLinear", ["b", "bs"], "bd"),
        node("Conv", ["xd", "wd", "bd"], "c", pads=[1] * 4),
        node("Relu", ["c"], "r"),
        node("QuantizeLinear", ["r", "so", "zo"], "q"),
        *([node("Clip", ["q", "bottom", "top"], "qc")] if clipped else []),
        node("DequantizeLinear", ["qc" if clipped else "q", "so", "zo"], "y"),
    ]
    return model(nodes, constants)


def small_qdq(zero_point=THREE, out_zero_point=SEVEN, weight=None, weight_scale=0.02, **changes):
    """(nodes, constants) of image -> codes -> Conv -> codes -> y, with int32 bias, for images [N, 3, 16, 16]."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8) if weight is None else weight
    neutral = np.zeros(np.shape(weight_scale), weight.dtype) + (128 if weight.dtype == np.uint8 else 0)
    scale = np.asarray(weight_scale, F32)
    constants = {
        "s": F32(0.03), "z": zero_point, "w": weight, "ws": scale, "wz": neutral.astype(weight.dtype),
        "b": rng.integers(-3000, 3000, 4).astype(np.int32), "bs": np.broadcast_to(F32(0.03) * scale, 4),
        "so": F32(0.2), "zo": out_zero_point,
    } | changes  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "xq"),
        node("DequantizeLinear", ["xq", "s", "z"], "xd"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0),
        node("DequantizeLinear", ["b", "bs"], "bd", axis=0),
        node("Conv", ["xd", "wd", "bd"], "c", pads=[1] * 4),
        node("QuantizeLinear", ["c", "so", "zo"], "q"),
        node("DequantizeLinear", ["q", "so", "zo"], "y"),
    ]
    return nodes, {name: value for name, value in constants.items() if value is not None}
