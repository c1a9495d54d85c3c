"""What a run prints at its end: accuracy by stage, overflow, certificates, and one line per layer."""

from collections import Counter, defaultdict

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from oaq_repro.results.by_precision import choice_label, shortest_block
from oaq_repro.results.frame_sections import FramePrecision
from oaq_repro.results.labels import label, short_names
from oaq_repro.results.measures import STAGE_LABELS, stage_columns
from oaq_repro.results.record import Record
from oaq_repro.results.sections import BitAssignment, Cost, Layer, Overflow

NAME_WIDTH = 28
NAME_WIDTH_BESIDE_RANGES = 20


def print_record(record: Record, console: Console | None = None) -> None:
    """Print the tables of a record (to standard output by default)."""
    (console or Console()).print(render_record(record))


def render_record(record: Record) -> RenderableType:
    """Everything that `print_record` prints, as one rich renderable."""
    parts: list[RenderableType] = []
    if record.status != "finished":
        parts.append(Text(f"This run is {record.status}: {record.provenance.error or 'no error was recorded'}", "bold"))
    if record.swapped:
        left = ", ".join(record.left_float)
        ending = f"left in float on request: {left}" if left else "none left in float"
        parts.append(Text(f"Quantized {len(record.swapped)} modules; {ending}"))
    parts.extend(Text(f"No integer stages: {reason}") for reason in record.simulated_only)
    if record.metrics:
        parts.append(_accuracy(record))
    if record.frame_precision is not None:
        parts += [_choices(record.frame_precision), _widths(record.frame_precision)]
    if record.layers:
        parts.append(_layers(record))
    if record.overflow is not None:
        parts.extend(Text(line) for line in overflow_lines(record.overflow))
    if record.layers:
        parts.append(Text(_certified_line(record)))
        parts.extend(Text(line) for line in _requantization_lines(record))
    if record.assignment is not None:
        parts.append(Text(_assignment_line(record.assignment)))
    if record.cost is not None:
        parts.append(Text(_cost_line(record.cost)))
    if record.latency_ms:
        parts.append(_latency(record))
    return Group(*parts)


def _choices(found: FramePrecision) -> Table:
    """The policy and its controls, per frame, the policy's own cost included."""
    table = Table(
        title=f"Precision per frame: {found.clips} held-out clips of {found.frames} frames (cost: all at 8 bits is 1)",
        box=box.SIMPLE,
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("choice", no_wrap=True)
    widths = [str(width.bits) for width in found.widths]
    for heading in ("top-1\n(%)", "mAP\n(%)", "cost", "M\nMACs", "M\nBOPs", "ms", f"{'/'.join(widths)}/skip\n(%)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in found.choices:
        parts = "/".join(f"{100 * part:.0f}" for part in row.frames.values()) or "-"
        ms = "-" if row.ms is None else f"{row.ms:.3f}"
        metrics = (f"{100 * row.metrics[name]:.2f}" for name in ("clip_top1", "clip_map"))
        costs = (f"{row.cost:.3f}", f"{row.macs / 1e6:.3f}", f"{row.bops / 1e6:.1f}", ms)
        table.add_row(choice_label(row), *metrics, *costs, parts)
    policy, line = found.choices[0], next(row for row in found.choices if row.choice == "line")
    gain = 100 * (policy.metrics["clip_top1"] - line.metrics["clip_top1"])
    table.caption = (
        f"Beside its skips alone, at equal cost (line), choosing precisions gives {gain:+.2f} points here; "
        "one seed shows nothing (docs/video.md)"
    )
    table.caption_justify = "left"
    return table


def _widths(found: FramePrecision) -> Table:
    """One row per width."""
    table = Table(title="Networks of all widths, all frames", box=box.SIMPLE, title_justify="left")
    for heading in (
        "bits",
        "stage 1\n(%)",
        "simulated\n(%)",
        "integer\n(%)",
        "certified",
        "longest\nblock",
        "frames with\noverflow",
    ):
        table.add_column(heading, justify="right")
    for graph in found.widths:
        stages = (graph.metrics.get(stage, {}).get("clip_top1") for stage in ("soft", "simulated", "integer"))
        values = ("-" if value is None else f"{100 * value:.2f}" for value in stages)
        seen = f"{graph.overflow.images_affected:,}/{graph.overflow.images:,}"
        certified = f"{graph.certified} of {len(graph.layers)}"
        table.add_row(str(graph.bits), *values, certified, str(shortest_block(graph)), seen)
    return table


def overflow_lines(overflow: Overflow) -> list[str]:
    """Overflow in words: outputs and images, settle set apart from held-out data; 'seen', not 'possible'."""
    settle = _part(overflow.settle_events, sum(overflow.settle_outputs.values()))
    held_out = _part(overflow.evaluation_events, sum(overflow.outputs.values()))
    settle_images = f" of {overflow.settle_images:,} images" if overflow.settle_images else ""
    affected = f"{overflow.images_affected:,} of {overflow.images:,} images"
    return [
        f"Overflow seen on the settle set: {settle} outputs{settle_images}",
        f"Overflow seen on held-out data: {held_out} outputs, in {affected}",
    ]


def _part(events: int, outputs: int) -> str:
    share = f" ({events / outputs:.1e})" if events and outputs else ""
    return f"{events:,} of {outputs:,}{share}"


def _certified_line(record: Record) -> str:
    return f"Overflow impossible on any input: {record.certified} of {len(record.layers)} layers certified (✓)"


def _requantization_lines(record: Record) -> list[str]:
    """How sums become codes, where any layer's do by integers."""
    counts = Counter(layer.requantization for layer in record.layers)
    if not counts.keys() - {"float32", None}:
        return []
    return [f"Requantization: {', '.join(f'{kind} in {count} layers' for kind, count in counts.most_common())}"]


def _assignment_line(found: BitAssignment) -> str:
    widths = Counter(layer.bits for layer in found.layers)
    layers = ", ".join(f"{count} layers at {bits}" for bits, count in sorted(widths.items()))
    return f"Bits that were searched for: {layers}; {found.cost:,.6g} of at most {found.bound:,.6g} {found.unit}"


def _cost_line(cost: Cost) -> str:
    zeros = f", {1 - cost.density:.0%} of them zero" if cost.density < 1 else ""
    return (
        f"Cost of one image: {cost.macs / 1e6:,.2f} M products, {cost.bops / 1e9:,.3f} G bit operations, "
        f"{cost.weight_bytes / 1e6:,.3f} MB of weights{zeros}"
    )


MODE_LABELS = {
    "fast": "fast: the accumulators of this run",
    "certified": "certified: 16-bit sums that no input can overflow",
    "acc32": "32-bit accumulators, 16-bit pairs",
    "exact": "32-bit accumulators and products",
}


def _latency(record: Record) -> Table:
    """One row per mode of the engine."""
    table = Table(title="Integer engine, one image on one thread", box=box.SIMPLE, title_justify="left")
    table.add_column("mode")
    table.add_column("ms", justify="right")
    table.add_column("to fast", justify="right")
    for mode, milliseconds in record.latency_ms.items():
        ratio = f"{milliseconds / record.latency_ms['fast']:.2f}" if record.latency_ms.get("fast") else "-"
        table.add_row(MODE_LABELS.get(mode, mode), f"{milliseconds:.3f}", ratio)
    return table


def _accuracy(record: Record) -> Table:
    table = Table(title=f"Run {record.hash}, seed {record.seed} (%)", box=box.SIMPLE, title_justify="left")
    table.add_column("metric")
    headings = {**STAGE_LABELS, "integer": f"integer {label(record.config, 'accumulator')}"}
    stages = stage_columns(record.metrics)
    for stage in stages:
        table.add_column(headings[stage], justify="right")
    for metric in record.metric_names:
        values = (record.metrics.get(stage, {}).get(metric) for stage in stages)
        table.add_row(metric, *("-" if value is None else f"{100 * value:.2f}" for value in values))
    return table


def _layers(record: Record) -> Table:
    """One row per layer; `a` is the input activation, `w` the weight (mean over channels). Fits 80 columns."""
    table = Table(
        title="Layers (a: input, w: weight, ✓: certified; overflow seen on s: settle set, h: held-out data)",
        box=box.SIMPLE,
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("layer", no_wrap=True)
    ranges = any(layer.alpha_weight_max is not None for layer in record.layers)
    headings = ("bits\na/w", "worst\ncase", "longest\nblock", "overflow\ns/h")
    for heading in ("alpha\na/w", *(["alpha w\nrange"] if ranges else []), *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    names = short_names([layer.name for layer in record.layers], NAME_WIDTH_BESIDE_RANGES if ranges else NAME_WIDTH)
    for name, layer in zip(names, record.layers, strict=True):
        alpha = f"{layer.alpha_activation:.2f}/{layer.alpha_weight:.2f}"
        table.add_row(name, alpha, *([_range(layer)] if ranges else []), *_layer_cells(layer, record.overflow))
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, layer in zip(names, record.layers, strict=True):
        if layer.reason:
            others["On another accumulator", f"{layer.accumulator}, {layer.reason}"].append(name)
        if layer.requantization_reason:
            why = f"{layer.requantization}, {layer.requantization_reason}"
            others["Another requantization", why].append(name)
    table.caption = "\n".join(f"{what}: {', '.join(found)} ({why})" for (what, why), found in others.items())
    table.caption_justify = "left"
    return table


def _layer_cells(layer: Layer, overflow: Overflow | None) -> tuple[str, ...]:
    settle = "-" if overflow is None or layer.name not in overflow.settle else _count(overflow.settle[layer.name])
    return (
        f"{layer.bits_activation:.1f}/{layer.bits_weight:.1f}",
        ("-" if layer.worst_case is None else f"{layer.worst_case:.2f}") + (" ✓" if layer.certified else "  "),
        "-" if layer.longest_block is None else str(layer.longest_block),
        f"{settle}/{_count(layer.overflow_seen)}",
    )


def _range(layer: Layer) -> str:
    """Of the channels' factors; nothing where they are one."""
    low, high = layer.alpha_weight_min, layer.alpha_weight_max
    return "" if low is None or high is None or low == high else f"{low:.1f}-{high:.1f}"


def _count(number: int) -> str:
    """Exact where the column has room; the record has every digit."""
    return f"{number:,}" if number < 10**6 else f"{number:.3g}"
