"""Draw docs/images/accumulation.png: why 16-bit accumulation is faster, when it is safe, what is certified.

    python scripts/draw_accumulation.py RUN_INT8 RUN_OAQ [--layer NAME] [--out docs/images/accumulation.png]

The two runs are folders of finished runs of one network, method=int8 and method=oaq; the sums drawn are theirs.
"""

import argparse
import sys
from pathlib import Path

from oaq_repro.extras import require

require("train")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from oaq_repro.accumulator import NAMED
from oaq_repro.command_line import ended
from oaq_repro.errors import InputError
from oaq_repro.files import write_atomic
from oaq_repro.integer.certificate import reach, reachable_products
from oaq_repro.integer.graph import Conv, Graph
from oaq_repro.integer.reference import Reference
from oaq_repro.results.record import load_record
from oaq_repro.settings.schema import build

LIMIT = NAMED["int16"].maximum
BLUE, ORANGE, GREY = "#1f5a99", "#d9822b", "#777777"


def main() -> int:
    """Parse the command line, draw, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("int8", type=Path)
    parser.add_argument("oaq", type=Path)
    parser.add_argument("--layer", default="layer3.0.conv2")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("docs/images/accumulation.png"))
    arguments = parser.parse_args()

    def work() -> int:
        figure = draw(arguments.int8, arguments.oaq, arguments.layer, arguments.images)
        write_atomic(arguments.out, lambda path: figure.savefig(path, dpi=160))
        return 0

    return ended(work)


def draw(int8: Path, oaq: Path, layer: str, count: int) -> plt.Figure:
    """The three panels."""
    plt.rcParams.update({"font.size": 10})
    figure, axes = plt.subplots(3, 1, figsize=(7.2, 9.4), height_ratios=(1.15, 1, 1), layout="constrained")
    _registers(axes[0])
    _sums(axes[1], {"8-bit ranges": (int8, ORANGE), "OAQ": (oaq, BLUE)}, layer, count)
    _certificate(axes[2], oaq, layer)
    return figure


def _registers(ax: Axes) -> None:
    ax.set_title("1  Why it is faster: 32 products take two instructions instead of three", loc="left", weight="bold")
    rows = (
        ("vpmaddubsw: 32 products, added two by two", 16, "16 bit", GREY),
        ("vpaddw: into 16 sums of 16 bits", 16, "16 bit", BLUE),
        ("vpmaddwd: pairs joined to 32 bits", 8, "32 bit", ORANGE),
        ("vpaddd: into 8 sums of 32 bits", 8, "32 bit", ORANGE),
    )
    for (text, lanes, _, colour), (left, top) in zip(rows, ((0, 3), (0, 2), (1, 2), (1, 1)), strict=True):
        width, x = (2.1, 1.25) if top == 3 else (2.1, 0.05 + 2.4 * left)
        for lane in range(lanes):
            ax.add_patch(
                Rectangle((x + lane * width / lanes, top), width / lanes, 0.42, fc=colour, ec="white", alpha=0.85)
            )
        ax.text(x + width / 2, top + 0.5, text, ha="center", va="bottom", fontsize=9)
    for start, end in (((2.0, 2.95), (1.2, 2.72)), ((2.6, 2.95), (3.4, 2.72)), ((3.5, 1.95), (3.5, 1.72))):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "black"})
    ax.text(
        1.1,
        1.45,
        "16-bit accumulator: 64 products a cycle\nwith two vector multipliers",
        ha="center",
        va="center",
        color=BLUE,
        weight="bold",
    )
    ax.text(3.5, 0.6, "32-bit accumulator: 32 products a cycle", ha="center", va="center", color=ORANGE, weight="bold")
    ax.set_xlim(0, 4.6)
    ax.set_ylim(0.2, 3.75)
    ax.axis("off")


def _sums(ax: Axes, runs: dict[str, tuple[Path, str]], layer: str, count: int) -> None:
    ax.set_title("2  When it is safe: the final sum has to stay inside 16 bits", loc="left", weight="bold")
    found = {name: exact_sums(folder, layer, count) for name, (folder, _) in runs.items()}
    widest = max(float(np.abs(sums).max()) for sums in found.values())
    edges = np.linspace(-widest, widest, 170)
    for style, (name, sums) in zip(("-", "--"), found.items(), strict=True):
        colour = runs[name][1]
        share = float(np.mean((sums > LIMIT) | (sums < -LIMIT - 1)))
        says = f"{name}: {100 * share:.2g} % outside" if share else f"{name}: none outside"
        ax.hist(sums, edges, histtype="step", color=colour, lw=1.8, ls=style, log=True, density=True, label=says)
    ax.axvspan(-LIMIT - 1, LIMIT, color="#2e7d32", alpha=0.12, lw=0)
    multiples = range(3, int(widest / LIMIT) + 1, 2)
    ticks = {-LIMIT: "-32768", 0: "0", LIMIT: "32767"} | {
        s * m * LIMIT: f"{s * m} x" for m in multiples for s in (1, -1)
    }
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_yticks([])
    ax.minorticks_off()
    ax.set_xlabel(f"sums of {layer} on {count} held-out images (logarithmic)")
    ax.legend(loc="upper right", frameon=False)


def _certificate(ax: Axes, folder: Path, layer: str) -> None:
    ax.set_title("3  What is certified: sums that no input can overflow", loc="left", weight="bold")
    graph = Graph.load(folder / "graph.npz")
    node = _node(graph, layer)
    q = graph.qparams(node.inputs[0])
    lowest, highest = reachable_products(node.matrix, q, NAMED["int16"])
    depth = node.matrix.shape[1]
    block = _longest_power(lowest, highest)
    worst = np.maximum(np.cumsum(highest, axis=1), -np.cumsum(lowest, axis=1)).max(0)
    k = np.arange(1, depth + 1)
    ax.plot(k, worst / LIMIT, color=GREY, ls="--", lw=1.8, label="worst case of one sum over all products")
    folded = np.zeros(depth)
    for first in range(0, depth, block):
        part = slice(first, min(first + block, depth))
        folded[part] = np.maximum(np.cumsum(highest[:, part], axis=1), -np.cumsum(lowest[:, part], axis=1)).max(0)
    ax.plot(k, folded / LIMIT, color=BLUE, lw=1.5, label=f"worst case of sums of {block} products, then to 32 bits")
    ax.axhline(1, color="#2e7d32", lw=1.2)
    ax.text(depth, 1.04, "32767 ", ha="right", va="bottom", color="#2e7d32")
    low, high = reach(node, q, NAMED["int16"])
    ax.set_ylim(0, 1.12 * max(high, -low) / LIMIT)
    ax.set_yticks(range(0, int(max(high, -low) / LIMIT) + 1, 2))
    ax.set_ylabel("multiples of 32767")
    ax.set_xlabel(f"products summed in {layer}, after OAQ")
    ax.legend(loc="upper left", frameon=False)


def exact_sums(folder: Path, layer: str, count: int) -> np.ndarray:
    """All sums of a layer on the first held-out images of a run, in 32 bits, without bias: int32, flat."""
    record = load_record(folder / "record.json")
    data = build("data", record.config["data"])
    data.prepare_data()
    data.setup()
    batches, found = [], 0
    for batch in data.val_dataloader():
        batches.append(batch[0].numpy())
        found += len(batches[-1])
        if found >= count:
            break
    graph = Graph.load(folder / "graph.npz").with_accumulator(NAMED["int32"])
    node = _node(graph, layer)
    codes = Reference(graph).run(np.concatenate(batches)[:count], trace=True).values[node.inputs[0]]
    sums, *_ = node.accumulate(codes.transpose(0, 2, 3, 1), graph.qparams(node.inputs[0]))
    return sums.ravel()


def _node(graph: Graph, layer: str) -> Conv:
    node = graph.node(layer)
    if not isinstance(node, Conv):
        raise InputError(f"--layer: found {layer!r}, a {type(node).__name__}; expected a convolution")
    return node


def _longest_power(lowest: np.ndarray, highest: np.ndarray) -> int:
    """The longest aligned block of a power of two of products that cannot leave 16 bits."""
    block = 1
    while block < lowest.shape[1]:
        borders = np.arange(0, lowest.shape[1], 2 * block)
        sums = np.maximum(np.add.reduceat(highest, borders, axis=1), -np.add.reduceat(lowest, borders, axis=1))
        if sums.max() > LIMIT:
            return block
        block *= 2
    return block


if __name__ == "__main__":
    sys.exit(main())
