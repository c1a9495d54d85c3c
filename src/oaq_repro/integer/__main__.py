"""Command line of the integer engine: `python -m oaq_repro.integer audit|run|bench|export model`.

A model is an integer graph (.npz, `Graph.save`) or a quantized ONNX model (.onnx): `audit` reads the layers of any
(`onnx.audit`), the others those that are such graphs (`onnx.importer`). Bad input: one line on standard error, exit
status 2.
"""

import argparse
import json
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from oaq_repro.command_line import ended
from oaq_repro.errors import InputError, printable
from oaq_repro.files import write_atomic
from oaq_repro.integer.audit import Audit, audit
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.node_times import clock_hz, node_times
from oaq_repro.integer.engine.node_times import table as node_table
from oaq_repro.integer.engine.sums import MODES
from oaq_repro.integer.graph import Graph
from oaq_repro.integer.graph.npy import load_array

Shape = tuple[int, int, int]
BENCH_SECONDS = 2.0
WARM_UPS = 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    return ended(lambda: options.command(options))


def load(path: str) -> tuple[Graph, Shape | None]:
    """A model's graph, and the shape [C, H, W] of its images where the file says it."""
    if Path(path).suffix == ".onnx":
        from oaq_repro.integer.onnx.importer import import_with_shape

        return import_with_shape(path)
    if Path(path).suffix == ".npz":
        return Graph.load(path), None
    raise InputError(f"{path}: found another kind of file, expected .onnx or .npz")


def _audit(options: argparse.Namespace) -> None:
    graph: Graph | None = None
    if Path(options.model).suffix == ".onnx":
        from oaq_repro.integer.onnx.audit import audit_onnx

        found = audit_onnx(options.model)
    else:
        graph = load(options.model)[0]
        found = Audit(layers=audit(graph))
    if options.input is not None:
        found = _counted(found, graph or load(options.model)[0], _images(options.input), options.threads)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        from oaq_repro.integer.audit_table import print_audit

        print_audit(found)


def _counted(found: Audit, graph: Graph, images: np.ndarray, threads: int) -> Audit:
    """With what saturates on images in the layers that are not exact."""
    from rich.console import Console
    from rich.progress import track

    from oaq_repro.integer.saturation import PairCounter, inexact

    counter = PairCounter(graph, inexact(found), images.shape[1:], threads)
    console = Console(stderr=True)
    for image in track(images, "pairs that saturate", console=console, transient=True, disable=not console.is_terminal):
        counter.add(image[np.newaxis])
    counts = counter.counts
    rows = tuple(row.model_copy(update={"saturated": counts.get(row.name)}) for row in found.layers)
    return found.model_copy(update={"layers": rows})


def _run(options: argparse.Namespace) -> None:
    graph, _ = load(options.model)
    images = _images(options.input)
    outputs = Engine(graph, images.shape[1:], options.threads, options.mode).run(images)
    write_atomic(options.output, lambda path: _write_arrays(path, dict(zip(graph.outputs, outputs, strict=True))))
    for name, output in zip(graph.outputs, outputs, strict=True):
        print(f"{printable(name)}: {output.dtype} {list(output.shape)}")


def _images(path: str) -> np.ndarray:
    images = load_array(path, "a .npy file of images")
    if images.dtype != np.float32 or images.ndim != 4 or images.size == 0:
        found = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"{path}: found {found}, expected one array float32 [N, C, H, W], not empty")
    return images


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz with members of any name (np.savez reserves some)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _bench(options: argparse.Namespace) -> None:
    graph, declared = load(options.model)
    shape = options.shape or declared
    if shape is None:
        raise InputError(f"{options.model}: does not say how large its images are, expected --shape C,H,W")
    engine = Engine(graph, shape, options.threads, options.mode)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    for _ in range(WARM_UPS):
        engine.run(image)
    times: list[float] = []
    end = time.perf_counter() + BENCH_SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        engine.run(image)
        times.append(time.perf_counter() - start)
    print(engine.explain())
    low, middle, high = (1e3 * float(value) for value in np.quantile(times, (0.1, 0.5, 0.9)))
    print(f"{options.threads} thread(s), image {list(shape)}: {middle:.3f} ms (10% {low:.3f}, 90% {high:.3f}), "
          f"{len(times)} runs of one image")  # fmt: skip
    if options.profile:
        clock = clock_hz()
        print("\n" + node_table(node_times(engine, image[0], len(times), clock), clock, options.threads))


def _export(options: argparse.Namespace) -> None:
    from oaq_repro.integer.onnx.exporter import export_onnx

    graph, declared = load(options.model)
    shape = options.shape or declared
    if shape is None:
        raise InputError(f"{options.model}: does not say how large its images are, expected --shape C,H,W")
    print(export_onnx(graph, shape, options.output))


def _shape(text: str) -> Shape:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected C,H,W, three numbers above 0")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m oaq_repro.integer", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: Any, summary: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=summary, description=summary)
        made.set_defaults(command=function)
        made.add_argument("model", help="an integer graph (.npz) or a quantized ONNX model (.onnx)")
        return made

    made = command("audit", _audit, "which accumulators each layer needs, and where processors could differ")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    made.add_argument("--input", help="images, .npy, float32 [N, C, H, W], to count on them what saturates")
    made.add_argument("--threads", type=_threads, default=1, help="for --input")
    made = command("run", _run, "run the model on images")
    made.add_argument("--input", required=True, help="images, .npy, float32 [N, C, H, W]")
    made.add_argument("--output", required=True, help="file for the outputs, .npz")
    made.add_argument("--threads", type=_threads, default=1)
    made.add_argument("--mode", choices=MODES, default=MODES[0])
    made = command("bench", _bench, "time the model on one image")
    made.add_argument("--profile", action="store_true", help="print the time of every node as well")
    made.add_argument("--threads", type=_threads, default=1)
    made.add_argument("--mode", choices=MODES, default=MODES[0])
    made.add_argument("--shape", type=_shape, help="C,H,W of the images, where the model does not say it")
    made = command("export", _export, "write the model as ONNX: QDQ, or integers alone where it rounds so")
    made.add_argument("output", help="file to write, .onnx")
    made.add_argument("--shape", type=_shape, help="C,H,W of the images, where the model does not say it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
