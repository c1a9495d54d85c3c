"""Where in the user's network something is, for errors: a module's own name, its type, how to leave it in float."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from oaq_repro.errors import InputError
from oaq_repro.quant.conversion.calls import MODULE


@contextmanager
def placed(node: fx.Node, module: nn.Module | None) -> Iterator[None]:
    """Errors about a node say where it is. `module`: the one that it calls."""
    try:
        yield
    except InputError as error:
        if module is None:
            name, kind = innermost(node.meta.get("nn_module_stack", {}))
        else:
            name, kind = node.meta.get(MODULE, str(node.target)), type(module).__name__
        raise InputError(f"{error}; {place(name, kind)}") from error


def innermost(stack: Mapping[str, Any]) -> tuple[str, str]:
    """Name and type of the module that torch.fx was in; ("", "") for the network itself."""
    for name, kind in reversed(stack.values()):  # type: ignore[call-overload]
        return name, getattr(kind, "__name__", str(kind))
    return "", ""


def place(name: str, kind: str) -> str:
    """In words."""
    if not name:
        return "this is in the network's own forward pass: in a module of its own an override could leave it in float"
    match = f'{{match: "{name}", skip: true}}'
    return f"this is {name} ({kind}), which '+quantization.overrides.mine={match}' leaves in float"
