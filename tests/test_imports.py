"""Which room imports which, and what of others' code: the rules of CONTRIBUTING.md, read from every file.

Imports inside functions count as well. Names that are missing from the tables (experiment, benchmark, the command line
and their like) may import any room, and no room of the tables may import them.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "oaq_repro"
# values and functions that every room may import
BASE = {"errors", "files", "fields", "accumulator", "requantization", "fixed_point", "resampling", "transposed"}
SPLIT = "integer"  # whose rooms are those one level below
ROOMS: dict[str, set[str]] = {
    "quant": set(),
    "methods": {"quant"},
    "models": set(),
    "data": set(),
    "tasks": {"models"},
    "integer.graph": {"_kernels"},
    "integer.certificate": {"integer.graph"},
    "integer.reference": {"integer.graph"},
    "integer.engine": {"integer.certificate", "integer.graph", "_kernels"},
    "integer.operand_bits": {"integer.graph", "integer.reference"},
    "integer.audit": {"integer.certificate", "integer.graph"},
    "integer.audit_table": {"integer.audit"},
    "integer.saturation": {"integer.audit", "integer.engine", "integer.graph"},
    "integer.onnx": {"integer.audit", "integer.graph"},
    "integer.__main__": {
        "command_line",
        "integer.audit",
        "integer.audit_table",
        "integer.engine",
        "integer.graph",
        "integer.onnx",
        "integer.saturation",
    },  # fmt: skip
    "deploy": {"quant", "integer.certificate", "integer.engine", "integer.graph"},
    "results": set(),
    "settings": {"quant", "tasks", "results"},  # the kinds are located by their names
    "run": {"settings", "data", "results"},
    "training": {"run", "settings", "methods", "models", "quant", "data", "tasks", "results", "hints", "signals"},
    "sweeps": {"settings", "results"},
}
# Other people's packages that a room may import at all; rooms that are missing here are free but for FORBIDDEN.
LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "accumulator": set(),
    "requantization": set(),
    "fixed_point": {"numpy"},
    "resampling": {"numpy"},
    "transposed": set(),
    "quant": {"scipy", "torch"},
    "integer.graph": {"numpy"},
    "integer.certificate": {"numpy"},
    "integer.reference": {"numpy"},
    "integer.engine": {"numpy"},
    "integer.operand_bits": {"numpy"},
    "integer.audit": {"numpy", "pydantic"},
    "integer.audit_table": {"rich"},
    "integer.saturation": {"numpy"},
    "integer.onnx": {"numpy", "onnx", "google", "onnxruntime"},
    "integer.__main__": {"numpy", "rich"},
    "deploy": {"numpy", "torch"},
}
TRAINING = {
    "torch",
    "torchvision",
    "timm",
    "pytorch_lightning",
    "lightning_fabric",
    "hydra",
    "omegaconf",
    "wandb",
    "mmseg",
}
FORBIDDEN: dict[str, set[str]] = {
    "results": TRAINING,
    "methods": {"hydra", "omegaconf"},
    "models": {"hydra", "omegaconf"},
    "data": {"hydra", "omegaconf"},
    "tasks": {"hydra", "omegaconf"},
}


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module, from the parts of its name below the package."""
    return ".".join(parts[:2]) if parts[0] == SPLIT and len(parts) > 1 else parts[0]


def imports_of(path: Path) -> set[str]:
    """Dotted names of all that a file imports; of `from a import b`, a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import, expected names from the package on"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def found_imports() -> dict[str, list[tuple[str, str, bool]]]:
    """Per room: (file, imported room or library, whether it is a room of the package)."""
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        parts = relative.with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not parts or parts == (SPLIT,):
            assert not imports_of(path), f"{relative}: expected a docstring only"
            continue
        room = found.setdefault(room_of(parts), [])
        for name in imports_of(path):
            first, *rest = name.split(".")
            if first != "oaq_repro":
                if first not in sys.stdlib_module_names:
                    room.append((str(relative), first, False))
            elif rest:
                room.append((str(relative), room_of(tuple(rest)), True))
    return found


FOUND = found_imports()


def test_rooms_of_the_tables_exist_and_have_no_circles():
    assert ROOMS.keys() | LIBRARIES.keys() <= FOUND.keys()
    TopologicalSorter({room: allowed & ROOMS.keys() for room, allowed in ROOMS.items()}).prepare()
    integer = {room for room in FOUND if room.startswith(f"{SPLIT}.")}
    assert integer == {room for room in ROOMS if room.startswith(f"{SPLIT}.")}, "rooms of integer that have no rule"


@pytest.mark.parametrize("room", [*ROOMS, *sorted(BASE & FOUND.keys())])
def test_lower_rooms_never_import_higher_ones(room):
    allowed = ROOMS.get(room, set()) | BASE | {room}
    wrong = [f"{file} imports {name}" for file, name, ours in FOUND[room] if ours and name not in allowed]
    assert not wrong, f"{room} may import {', '.join(sorted(allowed))}"


@pytest.mark.parametrize("room", sorted(FOUND))
def test_libraries(room):
    allowed, forbidden = LIBRARIES.get(room), FORBIDDEN.get(room, set())
    found = [(file, name) for file, name, ours in FOUND[room] if not ours]
    wrong = [
        f"{file} imports {name}"
        for file, name in found
        if name in forbidden or (allowed is not None and name not in allowed)
    ]
    assert not wrong, f"{room}: {', '.join(wrong)}"


def test_nothing_but_the_script_imports_benchmarks():
    """Nor does anything but the command lines import what runs experiments."""
    for room, found in FOUND.items():
        for file, name, ours in found:
            assert not (ours and name == "benchmark") or room == "benchmark", f"{file} imports benchmark"


@pytest.mark.parametrize(
    "modules",
    [
        "oaq_repro.accumulator, oaq_repro.resampling, oaq_repro.errors, oaq_repro.files",
        "oaq_repro.integer.engine, oaq_repro.integer.reference, oaq_repro.integer.certificate, oaq_repro.integer.graph",
        "oaq_repro.integer.engine.node_times, oaq_repro.integer.engine.latency, oaq_repro.integer.operand_bits",
        "oaq_repro.integer.__main__, oaq_repro.integer.audit, oaq_repro.integer.audit_table",
        "oaq_repro.integer.onnx.importer, oaq_repro.integer.onnx.exporter, oaq_repro.integer.onnx.audit",
        "oaq_repro.integer.onnx.session",
        "oaq_repro.results.record, oaq_repro.results.store, oaq_repro.results.tables",
    ],
)
def test_no_torch_is_loaded(modules):
    """Not even by way of others: in a process in which importing these is an error."""
    program = f"import sys\nfor name in {sorted(TRAINING)!r}: sys.modules[name] = None\nimport {modules}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
