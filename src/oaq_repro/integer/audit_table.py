"""The audit on the terminal: a table, then how many layers it covers, and why the others are not in it."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from oaq_repro.errors import printable
from oaq_repro.integer.audit import Audit, LayerAudit

PAIRS = {"exact": "never", "depends on pairing": "by order", "possible": "yes"}


def print_audit(found: Audit) -> None:
    """Print it to standard output."""
    table = Table(title="Layers on 16-bit accumulators", box=box.SIMPLE, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for heading in ("K", "q_max", "worst\ncase", "longest\nblock"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("pairs can\nsaturate")
    table.add_column("narrowest\naccumulator", no_wrap=True)
    counted = [row.saturated for row in found.layers if row.saturated]
    for row in found.layers:
        numbers = (row.depth, row.q_max, f"{row.worst_case:.2f}", row.longest_block)
        narrowest = "over 32 bits" if row.narrowest is None else row.narrowest.name
        name = Text(printable(row.name))  # Text: what looks like markup is a part of the name
        table.add_row(name, row.kind, *map(str, numbers), _pairs(row), narrowest)
    console = Console()
    audited = len(found.layers)
    exact = sum(row.pairs == "exact" for row in found.layers)
    whole = sum(row.worst_case <= 1 for row in found.layers)
    if audited:
        console.print(table)
    lines = [
        f"{audited} of {found.total} layers audited.",
        f"Whole sums that no input overflows at 16 bits: {whole} of {audited} layers.",
        f"Layers in which no pair of products can saturate on x86 without VNNI: {exact} of {audited}",
        "(by order: not in ONNX Runtime's order of products, but in others, or it has no integer kernel there).",
        *map(printable, found.notes),
    ]
    if counted:
        changing = sum(each.changed > 0 for each in counted)
        lines.append(f"Layers in which they change codes on these images, in %: {changing} of {audited}.")
    if found.passed_over:
        lines.append("Passed over:")
        lines += [printable(f"  {each.name} ({each.op}): {each.reason}") for each in found.passed_over]
    for line in lines:
        console.print(Text(line))


def _pairs(row: LayerAudit) -> str:
    """Whether pairs can saturate, and what they change on images, in percent of the codes."""
    counted = "" if row.saturated is None else f", {100 * row.saturated.changed / row.saturated.outputs:.2g} %"
    return f"{PAIRS[row.pairs]}{counted}"
