"""Precision per frame as figures: accuracy against cost, and clips whose frames say what they got."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from oaq_repro.errors import InputError
from oaq_repro.results.by_precision import accuracy, choice_label, metric_of, rows_of, title_of
from oaq_repro.results.labels import label
from oaq_repro.results.plotting import MARKERS, Plot, legend, new_figure, style
from oaq_repro.results.record import Record

EXAMPLES_NAME = "frames.npz"
SERIES = {"policy": "*", "uniform": "s", "skip_only": "o", "shuffled": "X", "oracle": "^"}
NAMES = {
    "policy": "policy", "uniform": "all frames at one precision", "skip_only": "the policy's skips, rest at one",
    "shuffled": "policy, shuffled", "oracle": "oracle by kind of frame (bound)",
}  # fmt: skip
assert set(SERIES.values()) <= set(MARKERS)
SHOWN = 8
"""Clips in the picture."""


def accuracy_cost(group: Sequence[Record]) -> Plot:
    """Accuracy of the policy and its controls against cost by the source's rule, mean and 95 % interval over seeds."""
    metric = metric_of(group)[0]
    figure = new_figure(4.6)
    axes = figure.subplots()
    handles: dict[str, Line2D] = {}
    table, skips = [], []
    for rows in rows_of(group):
        kind = rows[0].choice
        value = accuracy(rows, metric)
        cost = float(np.mean([row.cost for row in rows]))
        table.append([choice_label(rows[0]), cost, value.mean, value.half])
        if kind not in SERIES:
            continue
        drawn = {
            "marker": SERIES[kind], "color": "black", "markersize": 11 if kind == "policy" else 7, "linestyle": "none",
            "markerfacecolor": "black" if kind == "policy" else "none",
        }  # fmt: skip
        half = 0.0 if value.half is None else 100 * value.half
        axes.errorbar(cost, 100 * value.mean, yerr=half, elinewidth=0.7, capsize=2, **drawn)  # type: ignore[arg-type]
        if rows[0].bits is not None:
            axes.annotate(
                str(rows[0].bits), (cost, 100 * value.mean), xytext=(4, -12), textcoords="offset points", fontsize=9
            )
        if kind == "skip_only":
            skips.append((cost, 100 * value.mean))
        handles.setdefault(kind, Line2D([], [], label=NAMES[kind], **drawn))  # type: ignore[arg-type]
    axes.plot(*zip(*sorted(skips), strict=True), color="black", linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_xscale("log")
    style(axes, "cost (all frames at 8 bits: 1; numbers beside marks: bits)", f"{metric} (%)")
    legend(figure, list(handles.values()), f"{title_of(group[0])}: {len(group)} seeds")
    return Plot(_stem("accuracy_cost", group[0]), figure, ["choice", "cost", metric, "half_95"], table)


def frames_picture(record: Record, path: Path) -> Plot:
    """Held-out clips of one run, below every frame the bits that the policy chose; path: what the run has kept."""
    pixels, bits, labels, kinds = read_examples(path)
    pixels, count = pixels[:SHOWN], pixels.shape[1]
    figure = new_figure(0.3 + 0.85 * len(pixels))
    grid = figure.subplots(len(pixels), count, squeeze=False)
    table = []
    for clip, row in enumerate(grid):
        for frame, axes in enumerate(row):
            chosen = int(bits[clip, frame])
            _show(axes, pixels[clip, frame], chosen)
            kind = "" if kinds is None else str(kinds[clip, frame])
            axes.set_xlabel(
                f"{kind + ': ' if kind else ''}{f'{chosen} bits' if chosen else 'skip'}", fontsize=7, labelpad=2
            )
            table.append([clip, str(labels[clip]), frame, kind, chosen])
        row[0].set_ylabel(str(labels[clip]), fontsize=11, rotation=0, labelpad=10, va="center")
    figure.suptitle(f"{title_of(record)}, seed {record.seed}", fontsize=10)
    return Plot(_stem("frames", record), figure, ["clip", "label", "frame", "kind", "bits"], table)


def read_examples(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Pixels uint8 [N, T, H, W, C], bits [N, T] (0: skipped), labels [N] and kinds [N, T] of clips; InputError."""
    try:
        with np.load(path, allow_pickle=False) as found:
            pixels, bits, labels = found["pixels"], found["bits"], found["labels"]
            kinds = found.get("kinds")
        if pixels.ndim != 5 or bits.shape != pixels.shape[:2] or len(labels) != len(pixels):
            raise ValueError(f"shapes {pixels.shape}, {bits.shape}, {labels.shape}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected clips that a run of task=video kept") from error
    return pixels, bits, labels, kinds


def _show(axes, pixels: np.ndarray, bits: int) -> None:
    """Frames in a frame as wide as they have bits; skipped ones are crossed out."""
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_linewidth(0.4 * bits if bits else 0.3)
    if not bits:
        height, width = pixels.shape[:2]
        axes.plot([-0.5, width - 0.5], [-0.5, height - 0.5], color="white", linewidth=2.5)
        axes.plot([-0.5, width - 0.5], [-0.5, height - 0.5], color="black", linewidth=1.0)


def _stem(what: str, record: Record) -> str:
    return "-".join([what, label(record.config, "data"), label(record.config, "model"), record.hash[:8]])


def figures_of(record: Record, folder: Path) -> dict[str, Figure]:
    """The figures of one run by file name, from its record and what lies in its folder."""
    found = {"accuracy_cost.png": accuracy_cost([record]).figure}
    if (folder / EXAMPLES_NAME).exists():
        found["frames.png"] = frames_picture(record, folder / EXAMPLES_NAME).figure
    return found
