"""Training curves of the range mapping factors and of overflow, from `finetune/metrics.csv` in a run's folder.

A fine-tuning that was interrupted goes on in `finetune-2` and so on; what it repeats replaces what was there.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from oaq_repro.errors import InputError
from oaq_repro.results.plotting import LINES, Plot, legend, new_figure, style

METRICS_GLOB = "finetune*/metrics.csv"
OPERANDS = ("alpha_weight", "alpha_activation")
ENDS = ("", "_min", "_max")


@dataclass(frozen=True)
class Curves:
    """Per logged step: alphas, by operand, and overflow events on the batch.

    alphas: smallest, quartiles and largest over all layers; where channels have factors of their own the quartiles are
    those of the layers' means and the extremes those of the channels.
    """

    steps: list[int]
    alphas: dict[str, list[list[float]]]
    events: list[float]


def read_curves(paths: Sequence[Path]) -> Curves | None:
    """Read the alphas that a fine-tuning's attempts logged; None where nothing of the kind was.

    InputError for a file that is no such log.
    """
    by_step: dict[int, dict[str, str]] = {}
    for path in sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name)):
        by_step |= _read(path)
    try:
        return _curves(by_step)
    except (ValueError, TypeError) as error:
        raise InputError(f"{paths[0]}: {error}, expected the metrics of a fine-tuning") from error


def _read(path: Path) -> dict[int, dict[str, str]]:
    """The rows that have counts of overflow, by step."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {int(row["step"]): row for row in csv.DictReader(file) if row.get("overflow")}
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}), expected the metrics of a fine-tuning") from error


def _curves(by_step: dict[int, dict[str, str]]) -> Curves | None:
    curves = Curves(sorted(by_step), {operand: [] for operand in OPERANDS}, [])
    for step in curves.steps:
        row = by_step[step]
        curves.events.append(float(row["overflow"]))
        for operand in OPERANDS:
            curves.alphas[operand].append(_spread(row, operand))
    return curves if curves.steps and all(all(found) for found in curves.alphas.values()) else None


def training_curves(curves: Curves, title: str, name: str) -> Plot:
    """Alphas over all layers (median, quartiles, extremes) above, overflow events on the batch below."""
    figure = new_figure(5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    handles, rows = [], []
    for operand, line in zip(OPERANDS, LINES[:2], strict=True):
        spread = curves.alphas[operand]
        columns = list(zip(*spread, strict=True))
        text = operand.replace("alpha_", "alpha of ") + "s"
        upper.plot(curves.steps, columns[2], color="black", linewidth=1.8, linestyle=line)
        for edge in (0, 4):
            upper.plot(curves.steps, columns[edge], color="0.4", linewidth=0.8, linestyle=line)
        if operand == OPERANDS[0]:
            upper.fill_between(curves.steps, columns[1], columns[3], color="black", alpha=0.15, linewidth=0)
        handles.append(Line2D([], [], color="black", linewidth=1.8, linestyle=line, label=f"{text}: median"))
        handles.append(Line2D([], [], color="0.4", linewidth=0.8, linestyle=line, label="smallest and largest"))
        rows.append(spread)
    style(upper, "", "alpha over layers")
    lower.plot(curves.steps, curves.events, color="black", linewidth=1.2, marker="o", markersize=3)
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(0, 4 * max(2.0, *curves.events))
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    style(lower, "step of fine-tuning", "overflow events\non the batch")
    legend(figure, handles, f"{title}\nband: middle half of the layers' weights")
    heads = ["step", "overflow_events"]
    heads += [f"{operand}_{part}" for operand in OPERANDS for part in ("min", "q25", "median", "q75", "max")]
    lines = [
        [step, events, *weights, *activations]
        for step, events, weights, activations in zip(curves.steps, curves.events, *rows, strict=True)
    ]
    return Plot(name, figure, heads, lines)


def _spread(row: dict[str, str], operand: str) -> list[float]:
    """Smallest, quartiles and largest of what a row has of an operand's alphas; empty where it has nothing."""
    values = {end: [float(v) for k, v in row.items() if k.startswith(f"{operand}{end}/") and v] for end in ENDS}
    layers = sorted(values[""])
    if not layers:
        return []
    quartiles = [_quantile(layers, share) for share in (0.25, 0.5, 0.75)]
    return [min(layers + values["_min"]), *quartiles, max(layers + values["_max"])]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the values of an ordered sequence."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
