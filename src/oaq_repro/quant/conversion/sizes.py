"""What a network does with the sizes of its images, resolved for images of one size.

torch.fx traces with symbols, so code that computes with sizes (TensorFlow's "same" padding, an `if` on a height) has no
trace. With the image's shape it has one: sizes are then numbers, and only the number of images stays a symbol.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from oaq_repro.errors import InputError

SHAPE = "shape"  # key in a node's `meta`: of its tensor, for one image


class SizedTracer(fx.Tracer):
    """Traces while it computes every value for one image of zeros [1, C, H, W], of which only the sizes are used."""

    def __init__(self, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.image = torch.zeros(1, *input_shape)
        self.computing = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Proxies of tensors know their sizes."""
        return _SizedProxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        """A proxy as always, and its value."""
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        self.computing = True
        try:
            with torch.no_grad():
                proxy.node.meta["value"] = self._value(proxy.node)
        finally:
            self.computing = False
        return proxy

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Modules within a leaf that is computed are no nodes."""
        return forward(*args, **kwargs) if self.computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters of a leaf that is computed are tensors."""
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """A graph without the values."""
        graph = super().trace(root, concrete_args)
        for node in graph.nodes:
            node.meta.pop("value", None)
        return graph

    def _value(self, node: fx.Node) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["value"])
        match node.op:
            case "placeholder":
                return self.image
            case "get_attr":
                value: Any = self.root
                for name in str(node.target).split("."):
                    value = getattr(value, name)
                return value
            case "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            case "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs) if callable(node.target) else None


class _SizedProxy(fx.Proxy):
    """A proxy whose sizes are numbers, but for the first, the number of images."""

    @property
    def shape(self) -> Any:
        value = self.node.meta.get("value")
        if not isinstance(value, Tensor):
            return self.__getattr__("shape")
        return (self.__getattr__("size")(0), *value.shape[1:]) if value.dim() else ()

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)


def note_shapes(model: fx.GraphModule, input_shape: Sequence[int]) -> None:
    """Compute one image of zeros and write the shape of every node's tensor, tuple of ints, to its `meta[SHAPE]`.

    InputError where the network does not take such an image.
    """
    try:
        with torch.no_grad():
            _Shapes(model).run(torch.zeros(1, *input_shape))
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"input_shape: found {list(input_shape)}, expected that of an image which the network takes ({reason})"
        ) from error


class _Shapes(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta[SHAPE] = tuple(value.shape)
        return value
