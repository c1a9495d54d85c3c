"""Files of the hls4ml jet features: h5 as from Zenodo and CERN, npz of the tutorial's arrays, csv as from OpenML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oaq_repro.data.fields import shown, unexpected
from oaq_repro.data.reading import MissingError, names_in, reading
from oaq_repro.errors import InputError

FEATURES = (
    "zlogz", "c1_b0_mmdt", "c1_b1_mmdt", "c1_b2_mmdt", "c2_b1_mmdt", "c2_b2_mmdt", "d2_b1_mmdt", "d2_b2_mmdt",
    "d2_a1_b1_mmdt", "d2_a1_b2_mmdt", "m2_b1_mmdt", "m2_b2_mmdt", "n2_b1_mmdt", "n2_b2_mmdt", "mass_mmdt",
    "multiplicity",
)  # fmt: skip
"""In the order of the networks' inputs; in h5 files `j_` stands before each."""
CLASSES = ("g", "q", "w", "z", "t")
LABEL = "class"
H5, NPZ, CSV = (".h5", ".hdf5", ".z"), (".npz",), (".csv",)
SPLITS = ("train", "val")
HOLD_OUT_EVERY = 5
"""Where there is one table only, every fifth of its jets is held out, as many as the hls4ml tutorial draws."""

Table = tuple[np.ndarray, np.ndarray]
"""Features float32 [N, 16], and indices in CLASSES int64 [N]."""


def read_splits(root: Path) -> tuple[Table, Table, bool]:
    """Training and held-out jets below a folder or in a file, and whether these are splits of their own.

    A folder has folders train and val, or files that are one table together. InputError for what cannot be read.
    """
    if root.is_dir() and all((root / split).is_dir() for split in SPLITS):
        train, val = (_joined([_table(path) for path in _files(root / split)]) for split in SPLITS)
        return train, val, True
    files = _files(root) if root.is_dir() else [root]
    if len(files) == 1 and files[0].suffix in NPZ and (found := _tutorial(files[0])) is not None:
        return (*found, True)
    features, labels = _joined([_table(path) for path in files])
    held_out = np.arange(len(labels)) % HOLD_OUT_EVERY == HOLD_OUT_EVERY - 1
    return (features[~held_out], labels[~held_out]), (features[held_out], labels[held_out]), False


def _files(folder: Path) -> list[Path]:
    suffixes = (*H5, *NPZ, *CSV)
    found = [folder / name for name in names_in(folder, "tables of jets") if Path(name).suffix in suffixes]
    if not found:
        raise unexpected(folder, "no table", f"folders train and val, or files *{', *'.join(suffixes)}", MissingError)
    return found


def _joined(tables: Sequence[Table]) -> Table:
    features, labels = zip(*tables, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def _table(path: Path) -> Table:
    expected = "columns " + ", ".join((*FEATURES[:2], "...", FEATURES[-1])) + " and the classes of the jets"
    if path.suffix in H5:
        columns = _h5(path, expected)
    elif path.suffix in NPZ:
        columns = _named(path, _arrays(path, expected), expected)
    elif path.suffix in CSV:
        columns = _csv(path, expected)
    else:
        raise unexpected(path, f"a file *{path.suffix}", f"one of *{', *'.join((*H5, *NPZ, *CSV))}")
    columns = {name.strip("'\" ").removeprefix("j_"): values for name, values in columns.items()}
    if absent := [name for name in FEATURES if name not in columns]:
        raise unexpected(path, f"no column {absent[0]}", expected)
    features = np.stack([_numbers(columns[name], path, name) for name in FEATURES], axis=1)
    if LABEL in columns:
        return features, _named_classes(columns[LABEL], path)
    if absent := [name for name in CLASSES if name not in columns]:
        raise unexpected(
            path, f"no column {LABEL}, nor one {absent[0]}", f"{LABEL}, or one of {', '.join(CLASSES)} each"
        )
    return features, _one_hot(np.stack([_numbers(columns[name], path, name) for name in CLASSES], axis=1), path)


def _h5(path: Path, expected: str) -> Mapping[str, np.ndarray]:
    """`jets` with `jetFeatureNames`, or a table whose fields have names."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{path}: found no package h5py, expected it for h5 files: pip install h5py") from None
    with reading(path, "h5 file", expected), h5py.File(path, "r") as file:
        tables = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        structured = [item for item in tables.values() if item.dtype.names]
        if "jets" not in tables and structured:
            return {name: structured[0][name] for name in structured[0].dtype.names}
        found = {name: tables[name][()] for name in ("jets", "jetFeatureNames") if name in tables}
    return _named(path, found, expected)


def _named(path: Path, arrays: Mapping[str, np.ndarray], expected: str) -> Mapping[str, np.ndarray]:
    """The columns of `jets` by `jetFeatureNames`."""
    if absent := [name for name in ("jets", "jetFeatureNames") if name not in arrays]:
        raise unexpected(path, f"no array {absent[0]}", expected)
    jets, names = arrays["jets"], arrays["jetFeatureNames"]
    if jets.ndim != 2 or names.ndim != 1 or jets.shape[1] != len(names):
        raise unexpected(path, f"jets {jets.shape} and jetFeatureNames {names.shape}", "[N, M] and [M]")
    return {_text(name): jets[:, column] for column, name in enumerate(names)}


def _arrays(path: Path, expected: str) -> dict[str, np.ndarray]:
    with reading(path, "npz file", expected), np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _tutorial(path: Path) -> tuple[Table, Table] | None:
    """The arrays of the hls4ml tutorial in one file, features in the order of FEATURES; None where there are others."""
    arrays = _arrays(path, "arrays")
    names = ("X_train_val", "y_train_val", "X_test", "y_test", "classes")
    if "X_train_val" not in arrays:
        return None
    if absent := [name for name in names if name not in arrays]:
        raise unexpected(path, f"no array {absent[0]}", f"{', '.join(names)}, as the hls4ml tutorial writes them")
    order = _named_classes(arrays["classes"], path)
    tables = []
    for features, labels in (names[:2], names[2:4]):
        x, y = arrays[features], arrays[labels]
        if x.ndim != 2 or x.shape[1] != len(FEATURES) or y.shape != (len(x), len(order)):
            found = f"{features} {x.shape} and {labels} {y.shape}"
            raise unexpected(path, found, f"[N, {len(FEATURES)}] and [N, {len(order)}]")
        tables.append((_numbers(x, path, features), order[_one_hot(_numbers(y, path, labels), path)]))
    return tables[0], tables[1]


def _csv(path: Path, expected: str) -> Mapping[str, np.ndarray]:
    import pandas

    with reading(path, "csv file", expected):
        table = pandas.read_csv(path, skipinitialspace=True)
    return {str(name): table[name].to_numpy() for name in table.columns}


def _numbers(values: np.ndarray, path: Path, name: str) -> np.ndarray:
    """float32, all of them finite."""
    try:
        found = np.asarray(values).astype(np.float32)
    except (TypeError, ValueError):
        raise unexpected(path, f"{name}: {shown(np.asarray(values).ravel()[0])}", "numbers") from None
    wrong = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(1))
    if len(wrong):
        raise unexpected(path, f"{name}: no finite number for jet {wrong[0]} ({len(wrong)} of {len(found)})", "numbers")
    return found


def _named_classes(values: np.ndarray, path: Path) -> np.ndarray:
    names = [_text(value).strip("'\" ").removeprefix("j_") for value in values.tolist()]
    if wrong := [name for name in names if name not in CLASSES]:
        raise unexpected(path, f"class {shown(wrong[0])}", f"one of {', '.join(CLASSES)}")
    return np.array([CLASSES.index(name) for name in names], dtype=np.int64)


def _one_hot(values: np.ndarray, path: Path) -> np.ndarray:
    wrong = np.flatnonzero((values != 0).sum(1) != 1)
    if len(wrong):
        raise unexpected(path, f"jet {wrong[0]} of {int((values[wrong[0]] != 0).sum())} classes", "one class per jet")
    return values.argmax(1).astype(np.int64)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
