"""Everything that is generated below a results folder: `tables/` and `figures/`, from records and published numbers.

Files are made in memory, so that the same code writes them and compares them with what stands there.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oaq_repro.files import write_atomic
from oaq_repro.results.by_assignment import assignment_files
from oaq_repro.results.by_density import density_files
from oaq_repro.results.by_hardness import hardness_files
from oaq_repro.results.by_pairs import FILE_NAME as PAIRS_NAME
from oaq_repro.results.by_pairs import Measured, pair_files, read_pairs
from oaq_repro.results.by_precision import precision_files
from oaq_repro.results.by_requantization import requantization_files
from oaq_repro.results.by_survey import survey_figures, survey_files
from oaq_repro.results.by_width import width_files
from oaq_repro.results.curves import METRICS_GLOB, read_curves, training_curves
from oaq_repro.results.density_figures import density_plots
from oaq_repro.results.figures import alpha_figure
from oaq_repro.results.labels import label
from oaq_repro.results.operand_figure import FILE_NAME, operand_figure, read_line
from oaq_repro.results.pairs_figure import pairs_figures
from oaq_repro.results.paper import PaperTable, load_tables
from oaq_repro.results.paper_tables import Costs, paper_files
from oaq_repro.results.plotting import Plot
from oaq_repro.results.precision_figure import EXAMPLES_NAME, accuracy_cost, frames_picture
from oaq_repro.results.record import RECORD_NAME, Record
from oaq_repro.results.store import list_records, run_folder
from oaq_repro.results.summary import experiments
from oaq_repro.results.sweep import sweeps
from oaq_repro.results.sweep_figures import accuracy_bits, accuracy_latency
from oaq_repro.results.tables import comparison_files

CostsOf = Callable[[Sequence[PaperTable]], Mapping[str, Costs]]
FOLDERS = ("tables", "figures")
SUFFIXES = {".md", ".csv", ".tex", ".svg", ".png"}
FILES = (
    width_files,
    assignment_files,
    requantization_files,
    hardness_files,
    density_files,
    precision_files,
    survey_files,
)
"""Tables of groups of records: texts by file name."""


@dataclass
class Output:
    """Path below the results folder to content, and one message per record that could not be read."""

    files: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def make(results: Path, costs: CostsOf, tracked_only: bool = False) -> Output:
    """Make all tables and figures. tracked_only: leave out records that git does not track, where git knows.

    costs: computes those of published tables, by name (`paper_costs`), which takes torch.

    InputError for a folder that does not exist and for published numbers that cannot be read.
    """
    listing = list_records(results)
    records, problems = listing.records, listing.problems
    tracked = tracked_files(results) if tracked_only else None
    if tracked is not None:
        records = [r for r in records if run_folder(results, r.hash, r.seed) / RECORD_NAME in tracked]
        problems = [problem for problem in problems if any(problem.startswith(f"{path}:") for path in tracked)]
    texts = comparison_files(records)
    for files in FILES:
        texts |= files(records)
    tables = load_tables(results)
    counted = [table for table in tables if table.kind == "cost"]
    texts |= paper_files(tables, records, costs(counted) if counted else {})
    texts |= pair_files(_pairs(records, _beside(results, tracked)))
    output = Output({f"tables/{name}": text.encode() for name, text in sorted(texts.items())}, list(problems))
    for plot in plots(results, records, tracked):
        output.files |= {f"figures/{name}": content for name, content in plot.files().items()}
    return output


def plots(results: Path, records: Sequence[Record], tracked: set[Path] | None = None) -> list[Plot]:
    """All figures that the records, and what lies beside them (where given: tracked files only), have something for."""
    beside = _beside(results, tracked)
    made: list[Plot | None] = []
    by_hash = {record.hash: record for record in sorted(records, key=lambda record: -record.seed)}  # the lowest seed's
    for sweep in sweeps(records):
        made += [accuracy_bits(sweep), accuracy_latency(sweep)]
        for points in sweep.series.values():
            whole = [by_hash[point.hash] for point in points if point.accumulator.name == "int16"]
            if whole and label(whole[0].config, "method") == "oaq":
                made += [alpha_plot(whole[0]), _curves(whole[0], beside(whole[0], METRICS_GLOB))]
    for group in experiments([record for record in records if record.frame_precision is not None]):
        made.append(accuracy_cost(group))
        made += [frames_picture(group[0], path) for path in beside(group[0], EXAMPLES_NAME)]
    made += density_plots(records)
    made += survey_figures(records)
    made += pairs_figures(_pairs(records, beside))
    made.append(_operands([(record, beside(record, FILE_NAME)) for record in records]))
    return [plot for plot in made if plot is not None]


def alpha_plot(record: Record) -> Plot:
    """Alpha per layer (the paper's figure 4)."""
    heads = ["layer", "kind", "alpha_activation", "alpha_weight", "bits_activation", "bits_weight"]
    if any(layer.alpha_weight_max is not None for layer in record.layers):
        heads += [f"{field}_{end}" for field in ("alpha_weight", "bits_weight") for end in ("min", "max")]
    rows = [[getattr(layer, head if head != "layer" else "name") for head in heads] for layer in record.layers]
    return Plot(f"alpha-{_name(record)}", alpha_figure(record), heads, rows)


def write(output: Output, results: Path) -> list[Path]:
    """Write all files and remove generated ones that no longer are; the paths written."""
    for path in _generated(results):
        if path.relative_to(results).as_posix() not in output.files:
            path.unlink()
    return [write_atomic(results / name, content) for name, content in output.files.items()]


def differences(output: Output, results: Path) -> list[str]:
    """One line per file that is missing, differs, or should not be there.

    Texts are compared to the byte. SVGs too, where the committed one was made by this version of matplotlib; of other
    SVGs, and of PNGs, whose bytes depend on more, only the presence is checked. The numbers they show are in CSVs.
    """
    lines = []
    for name, content in output.files.items():
        path = results / name
        if not path.is_file():
            lines.append(f"{path}: missing")
        elif path.suffix != ".png" and not _alike(path, content):
            lines.append(f"{path}: differs")
    wanted = set(output.files)
    extra = [path for path in _generated(results) if path.relative_to(results).as_posix() not in wanted]
    return sorted([*lines, *(f"{path}: nothing makes this file" for path in extra)])


def tracked_files(folder: Path) -> set[Path] | None:
    """Files below `folder` that git tracks; None where the folder is in no checkout, or git is absent."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--", "."]
    try:
        found = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {folder / name for name in found.decode(errors="replace").split("\0") if name}


def _beside(results: Path, tracked: set[Path] | None) -> Callable[[Record, str], list[Path]]:
    """What finds files of a pattern in a record's folder."""

    def beside(record: Record, pattern: str) -> list[Path]:
        paths = run_folder(results, record.hash, record.seed).glob(pattern)
        return [path for path in paths if tracked is None or path in tracked]

    return beside


def _alike(path: Path, content: bytes) -> bool:
    old = path.read_bytes()
    if path.suffix == ".svg" and _maker(old) != _maker(content):
        return True
    return old == content


def _maker(svg: bytes) -> bytes | None:
    found = re.search(rb"Matplotlib v[^,<]*", svg)
    return found and found.group()


def _generated(results: Path) -> list[Path]:
    """What stands in the generated folders."""
    return sorted(path for name in FOLDERS for path in (results / name).glob("*") if path.suffix in SUFFIXES)


def _curves(record: Record, paths: Sequence[Path]) -> Plot | None:
    curves = read_curves(paths)
    if curves is None:
        return None
    return training_curves(curves, f"{_title(record)}, seed {record.seed}", f"training-{_name(record)}")


def _pairs(records: Sequence[Record], beside: Callable[[Record, str], list[Path]]) -> Measured:
    return [(record, read_pairs(path)) for record in records for path in beside(record, PAIRS_NAME)]


def _operands(runs: Sequence[tuple[Record, Sequence[Path]]]) -> Plot | None:
    lines = [read_line(path, f"{_title(r)}, seed {r.seed}", r.hash) for r, paths in runs for path in paths]
    return operand_figure(sorted(lines, key=lambda line: (line.name, line.run))) if lines else None


def _title(record: Record) -> str:
    return ", ".join(label(record.config, section) for section in ("data", "model", "method", "accumulator"))


def _name(record: Record) -> str:
    parts = (label(record.config, section) for section in ("data", "model", "method", "accumulator"))
    return "-".join([*parts, record.hash[:8]])
