"""What type checkers are told of the compiled module is what it has, and what nanobind says of it."""

import ast
import re
from pathlib import Path

from nanobind.stubgen import StubGen

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


def signatures(source: str) -> dict[str, list[str | None]]:
    """Names of the arguments of every function and method; None where the bindings give none."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef):
            for function in (part for part in node.body if isinstance(part, ast.FunctionDef)):
                if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in function.decorator_list):
                    continue
                arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
                names = [None if re.fullmatch(r"arg\d*", a.arg) else a.arg for a in arguments]
                found[f"{getattr(node, 'name', '')}.{function.name}"] = names
    return found


def test_functions_take_what_nanobind_says():
    generator = StubGen(_kernels)
    generator.put(_kernels)
    ours, theirs = signatures(STUB.read_text()), signatures(generator.get())
    assert ours.keys() == theirs.keys()
    for name, arguments in theirs.items():
        assert len(ours[name]) == len(arguments), name
        assert all(a is None or a == b for a, b in zip(arguments, ours[name], strict=True)), (name, arguments)
