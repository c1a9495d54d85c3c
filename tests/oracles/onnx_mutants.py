"""Models that somebody has changed in a place: attributes, inputs, operators, constants, sizes, opsets."""

import numpy as np
import onnx
from onnx import AttributeProto, defs, helper, numpy_helper

SIBLINGS = {
    "MaxPool": ["AveragePool", "GlobalAveragePool"], "AveragePool": ["MaxPool"], "Relu": ["Identity", "Max", "Clip"],
    "Add": ["Max", "Concat"], "Conv": ["MatMul"], "Clip": ["Max", "Relu"], "Flatten": ["Identity", "Reshape"],
    "GlobalAveragePool": ["MaxPool", "ReduceMean"], "Gemm": ["MatMul"], "Identity": ["Dropout"],
}  # fmt: skip
NUMBERS = (-3, -2, -1, 0, 1, 2, 3, 4, 7, 100, 2**20, 2**31, 2**62)


def mutant(content: onnx.ModelProto, rng: np.random.Generator, changes: int = 1) -> onnx.ModelProto:
    """A copy with that many changes."""
    made = onnx.ModelProto()
    made.CopyFrom(content)
    for _ in range(changes):
        kinds = (_attribute, _attribute, _attribute, _input, _input, _operator, _constant, _constant, _size, _opset)
        kinds[rng.integers(len(kinds))](made, rng)
    return made


def _pick(values, rng: np.random.Generator):
    values = list(values)
    return values[rng.integers(len(values))]


def _attribute(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Set, change or take away an attribute, of those that the operator has in some opset."""
    node = _pick(made.graph.node, rng)
    names = {attribute.name for attribute in node.attribute}
    for schema in defs.get_all_schemas_with_history():
        if schema.name == node.op_type and schema.domain == node.domain:
            names |= set(schema.attributes)
    if node.domain:
        names |= {"axis", "channels_last", "transB"}
    if not names:
        return
    name = _pick(sorted(names), rng)
    old = [attribute for attribute in node.attribute if attribute.name == name]
    for attribute in old:
        node.attribute.remove(attribute)
    if rng.random() < 0.1:
        return
    value = _value(node, name, old, rng)
    node.attribute.append(helper.make_attribute(name, value))


def _value(node, name: str, old: list[AttributeProto], rng: np.random.Generator):
    if old and old[0].type == AttributeProto.INTS and rng.random() < 0.8:
        values = list(old[0].ints)
        if values:
            values[rng.integers(len(values))] = int(_pick(NUMBERS[:9], rng))
            return values
    words = {
        "auto_pad": ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "x"],
        "mode": ["nearest", "linear", "cubic"],
        "nearest_mode": ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"],
        "coordinate_transformation_mode": ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel",
                                           "half_pixel_symmetric", "tf_crop_and_resize"],
        "keep_aspect_ratio_policy": ["stretch", "not_larger", "not_smaller"],
    }  # fmt: skip
    if name in words:
        return _pick(words[name], rng)
    if name in ("alpha", "beta", "ratio", "cubic_coeff_a", "extrapolation_value"):
        return float(rng.choice([0.0, 0.5, 1.0, -0.75, 2.0]))
    lists = {"pads": 4, "strides": 2, "dilations": 2, "kernel_shape": 2, "axes": 2, "perm": 2}
    if name in lists:
        length = int(rng.choice([lists[name], lists[name], 4, 1]))
        return [int(_pick(NUMBERS[:9], rng)) for _ in range(length)]
    return int(_pick(NUMBERS, rng))


def _tensors(made: onnx.ModelProto) -> list[str]:
    return [t.name for t in made.graph.initializer] + [name for node in made.graph.node for name in node.output] + ["x"]


def _input(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Another tensor, one more, one less, none, or two that change places."""
    node = _pick([node for node in made.graph.node if node.input], rng)
    at, kind = int(rng.integers(len(node.input))), rng.integers(5)
    if kind == 0:
        node.input.append(_pick(_tensors(made), rng))
    elif kind == 1:
        del node.input[-1]
    elif kind == 2:
        node.input[at] = ""
    elif kind == 3:
        other = int(rng.integers(len(node.input)))
        node.input[at], node.input[other] = node.input[other], node.input[at]
    else:
        node.input[at] = _pick(_tensors(made), rng)


def _operator(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    node = _pick(made.graph.node, rng)
    if rng.random() < 0.2:
        node.domain = "" if node.domain else "com.microsoft"
    else:
        node.op_type = _pick(SIBLINGS.get(node.op_type, [node.op_type]), rng)


def _constant(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Other values, another type, another shape."""
    tensor = _pick(made.graph.initializer, rng)
    values, kind = numpy_helper.to_array(tensor).copy(), rng.integers(5)
    if kind == 0 and values.size:
        flat = values.reshape(-1)
        special = [0, 1, 2, 3, 127] if values.dtype.kind in "iu" else [0.0, 0.5, 1.0, -1.0, np.nan, np.inf, 1e-30, 3e38]
        flat[rng.integers(flat.size)] = special[rng.integers(len(special))]
    elif kind == 1:
        with np.errstate(invalid="ignore", over="ignore"):
            values = values.astype(
                _pick([np.int8, np.uint8, np.int32, np.int64, np.float32, np.int16, np.float16], rng)
            )
    elif kind == 2:
        values = values.reshape(_pick([(-1,), (1, *values.shape), (*values.shape, 1)], rng))
    elif kind == 3 and values.ndim > 1:
        values = np.ascontiguousarray(np.swapaxes(values, 0, 1))
    elif values.size > 1 and values.ndim:
        values = values[: len(values) // 2]
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _size(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    dims = made.graph.input[0].type.tensor_type.shape.dim
    dims[int(rng.integers(1, 4))].dim_value = int(_pick([1, 2, 3, 5, 9, 17, 33], rng))


def _opset(made: onnx.ModelProto, rng: np.random.Generator) -> None:
    made.opset_import[0].version = int(rng.integers(10, 26))
