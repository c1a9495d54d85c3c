"""What type checkers are told of the compiled module is what it has."""

import ast
from pathlib import Path

from oaq_repro import _kernels

STUB = Path(__file__).resolve().parents[2] / "src" / "oaq_repro" / "_kernels.pyi"


def public(names) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def declared(body: list[ast.stmt]) -> set[str]:
    """Names that statements of a stub define, imports and `Array` apart."""
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return public(names)


def test_the_stub_declares_what_the_module_has():
    body = ast.parse(STUB.read_text()).body
    assert declared(body) == public(vars(_kernels))
    for node in body:
        if isinstance(node, ast.ClassDef):
            assert declared(node.body) == public(vars(getattr(_kernels, node.name))), node.name
