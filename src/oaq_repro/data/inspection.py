"""Can this data set be trained on? Everything that training reads, read; the counts beside the official ones."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import yaml
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from tqdm import tqdm

from oaq_repro.data.base import DataModule
from oaq_repro.data.loading import View
from oaq_repro.data.notes import DataWarning
from oaq_repro.data.reading import MissingError
from oaq_repro.errors import InputError

SHOWN = 10
"""How many samples that cannot be loaded are named."""
CHUNK = 16
"""Samples that a worker loads at a time."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    missing: a file or folder is not there; broken: what is there cannot be read or contradicts itself; note: said of
    data that can be used, such as what was repaired; differs: not the published benchmark.
    """

    state: Literal["ok", "missing", "broken", "note", "differs"]
    text: str


@dataclass(frozen=True)
class Report:
    """All findings on one data set, and how to get what is missing."""

    findings: tuple[Finding, ...]
    get: str

    @property
    def complete(self) -> bool:
        """Whether nothing is missing or broken: whether training would get through its data."""
        return not any(finding.state in ("missing", "broken") for finding in self.findings)


def inspect_data(data: DataModule, load: bool = True) -> Report:
    """Prepare the data as training does (but download nothing) and load every sample as evaluation does.

    Nothing is checked here that training does not check: this calls the same code, and goes on where training would
    stop at the first sample that cannot be loaded. Never raises InputError: that is what it reports.
    load: False: without pixels, what lists and annotations say.
    """
    data.download = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        found = _set_up(data)
    for warning in caught:
        if issubclass(warning.category, DataWarning):
            found.append(Finding("note", str(warning.message)))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    if load and Report(tuple(found), "").complete:
        found += _load_all(data)
    if data.benchmark is None:
        return Report(tuple(found), "")
    manifest = manifests()[data.benchmark]
    return Report((*_counts(data, manifest["counts"]), *found), manifest["get"])


def manifests() -> dict[str, dict[str, Any]]:
    """What is published of each benchmark: `source`, `counts` by the names of `DataModule.counts`, how to `get` it."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(
        files("oaq_repro.data").joinpath("manifests.yaml").read_text("utf-8")
    )
    return found


def _set_up(data: DataModule) -> list[Finding]:
    try:
        data.prepare_data()
        data.setup()
    except MissingError as error:
        return [Finding("missing", str(error))]
    except InputError as error:
        return [Finding("broken", str(error))]
    return []


def _counts(data: DataModule, official: dict[str, int]) -> Iterator[Finding]:
    for name, count in data.counts.items():
        expected = official.get(name)
        if expected is None or count == expected:
            yield Finding("ok", f"{data.root}: {name}: {count:,}")
        elif count < expected:
            yield Finding("differs", f"{data.root}: {name}: this is a subset: {count:,} of {expected:,}")
        else:
            yield Finding("differs", f"{data.root}: {name}: {count:,}, more than the published {expected:,}")


class _Defects(Dataset):
    """What is wrong with each sample of a view: the message, or nothing."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> str | None:
        loaded = self.view.__getitems__([index])  # as a loader of training does
        return str(loaded) if isinstance(loaded, InputError) else None


def _load_all(data: DataModule) -> Iterator[Finding]:
    transform = data.transform(train=False)
    defects: Dataset[Any] = ConcatDataset([_Defects(View(samples, transform, None)) for samples in data.splits])
    loader = DataLoader(defects, batch_size=CHUNK, num_workers=data.num_workers, collate_fn=list)
    bar = tqdm(loader, f"loading all samples, {CHUNK} at a time", leave=False, disable=None)
    broken = [message for chunk in bar for message in chunk if message is not None]
    for message in broken[:SHOWN]:
        yield Finding("broken", message)
    if len(broken) > SHOWN:
        yield Finding("broken", f"{len(broken) - SHOWN} more samples that cannot be loaded")
    train, val = data.splits
    if not broken:
        use = "to train on" if data.trains else "for calibration"
        yield Finding("ok", f"{len(data.classes)} classes, {len(train)} samples {use}, {len(val)} held out; all load")
