"""Tiny tables in the layouts in which the jets are distributed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import settings_of
from layouts import JET_CLASSES, JET_FEATURES, jets, write_jets_csv

from oaq_repro.data.jets import Jets
from oaq_repro.errors import InputError
from oaq_repro.settings.schema import build

COMMON: dict[str, Any] = {"batch_size": 4, "seed": 0}
OTHERS = ["j_ptfrac", "j_pt", "j_eta", "j_mass"]
NAMES = [*OTHERS, *(f"j_{name}" for name in reversed(JET_FEATURES)), *(f"j_{name}" for name in JET_CLASSES), "j_undef"]


def made(root: Path, **fields: Any) -> Jets:
    data = Jets(root=root, **COMMON, **fields)
    data.setup()
    return data


def columns(count: int, seed: int = 0) -> np.ndarray:
    """The array `jets` of the files of Zenodo: 59 columns there, fewer here, in an order of their own."""
    values, labels = jets(count, seed)
    others = np.full((count, len(OTHERS)), np.nan)
    return np.concatenate([others, values[:, ::-1], np.eye(5)[labels], np.zeros((count, 1))], axis=1)


def write_h5(path: Path, count: int, seed: int = 0) -> None:
    h5py = pytest.importorskip("h5py", reason="the package h5py is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["jets"] = columns(count, seed)
        file["jetFeatureNames"] = np.array([name.encode() for name in NAMES])
        file["jetConstituentList"] = np.zeros((count, 3, 16))


def raw(data: Jets, split: int) -> tuple[np.ndarray, np.ndarray]:
    samples = data.splits[split]
    return samples.features, samples.targets


def test_csv_as_openml_exports_it_with_every_fifth_jet_held_out(tmp_path: Path) -> None:
    data = made(write_jets_csv(tmp_path / "jets.csv", 60))
    values, labels = jets(60)
    held_out = np.arange(60) % 5 == 4
    for split, part in ((0, ~held_out), (1, held_out)):
        found, classes = raw(data, split)
        np.testing.assert_allclose(found, values[part], rtol=1e-6)
        assert np.array_equal(classes, labels[part])
    assert data.classes == tuple(JET_CLASSES) and data.input_shape == (16, 1, 1) and data.counts == {"jets": 60}


def test_h5_as_the_archives_of_zenodo_unpack(tmp_path: Path) -> None:
    for split, name, count, seed in (("train", "a_0", 12, 0), ("train", "a_1", 8, 1), ("val", "b", 6, 2)):
        write_h5(tmp_path / split / f"jetImage_{name}.h5", count, seed)
    data = made(tmp_path)
    first, second = jets(12, 0), jets(8, 1)
    np.testing.assert_allclose(raw(data, 0)[0], np.concatenate([first[0], second[0]]))
    assert np.array_equal(raw(data, 0)[1], np.concatenate([first[1], second[1]]))
    np.testing.assert_allclose(raw(data, 1)[0], jets(6, 2)[0])
    assert data.counts == {"train: jets": 20, "val: jets": 6}


def test_the_table_of_the_training_code_has_named_fields(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="the package h5py is not installed")
    values, labels = jets(10)
    names = [f"j_{name}" for name in (*JET_FEATURES, *JET_CLASSES)]
    table = np.zeros(10, dtype=[("j_index", "i8"), *((name, "f4") for name in names)])
    for name, column in zip(names, np.concatenate([values, np.eye(5)[labels]], axis=1).T, strict=True):
        table[name] = column
    path = tmp_path / "processed-pythia82-lhc13-all-pt1-50k-r1_h022_e0175_t220_nonu_truth.z"
    with h5py.File(path, "w") as file:
        file["t_allpar_new"] = table
    data = made(path)
    np.testing.assert_allclose(raw(data, 1)[0], values[4::5])
    assert np.array_equal(raw(data, 1)[1], labels[4::5])


def test_npz_of_the_arrays_of_the_tutorial_keeps_its_split_and_its_order_of_classes(tmp_path: Path) -> None:
    order = sorted(JET_CLASSES)  # as scikit-learn's LabelEncoder has them
    arrays: dict[str, np.ndarray] = {"classes": np.array(order)}
    for name, count, seed in (("train_val", 20, 0), ("test", 5, 1)):
        values, labels = jets(count, seed)
        ranks = [order.index(JET_CLASSES[label]) for label in labels]
        arrays |= {f"X_{name}": values.astype(np.float64), f"y_{name}": np.eye(5, dtype=np.float32)[ranks]}
    np.savez(tmp_path / "jets.npz", **arrays)  # type: ignore[arg-type]
    data = made(tmp_path / "jets.npz")
    for split, (count, seed) in enumerate(((20, 0), (5, 1))):
        np.testing.assert_allclose(raw(data, split)[0], jets(count, seed)[0])
        assert np.array_equal(raw(data, split)[1], jets(count, seed)[1])
    del arrays["classes"]
    np.savez(tmp_path / "jets.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"jets.npz: found no array classes; expected X_train_val, .* tutorial"):
        made(tmp_path / "jets.npz")


def test_npz_with_named_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "jets.npz", jets=columns(10), jetFeatureNames=np.array(NAMES))
    np.testing.assert_allclose(raw(made(tmp_path), 1)[0], jets(10)[0][4::5])


def test_features_are_standardized_by_the_training_jets(tmp_path: Path) -> None:
    data = made(write_jets_csv(tmp_path / "jets.csv", 100))
    train, val = (
        torch.cat([x for x, _ in loader]) for loader in (data.calibration_dataloader(), data.val_dataloader())
    )
    assert train.shape == (80, 16, 1, 1) and train.dtype == torch.float32
    torch.testing.assert_close(train.mean(0), torch.zeros(16, 1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(16, 1, 1), atol=1e-5, rtol=0)
    first, second = (raw(data, split)[0].astype(float) for split in (0, 1))
    expected = (second - first.mean(0)) / first.std(0)
    np.testing.assert_allclose(val.numpy()[:, :, 0, 0], expected, rtol=1e-5)
    assert {len(made(tmp_path, subset=20, val_subset=10).splits[i]) for i in (0, 1)} == {20, 10}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "c1_b1_mmdt",
            "c1_b9_mmdt",
            r"jets.csv: found no column c1_b1_mmdt; expected columns zlogz, c1_b0_mmdt, \.\.\.",
        ),
        (
            ",class",
            ",label",
            r"jets.csv: found no column class, nor one g; expected class, or one of g, q, w, z, t each",
        ),
        ("'g'", "'b'", r"jets.csv: found class 'b'; expected one of g, q, w, z, t"),
    ],
)
def test_columns_and_classes_that_are_not_there_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_jets_csv(tmp_path / "jets.csv")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        made(path)


def test_what_is_no_number_and_what_has_no_class_is_named(tmp_path: Path) -> None:
    path = write_jets_csv(tmp_path / "jets.csv")
    lines = path.read_text().splitlines()
    for value, message in (("nan", r"zlogz: no finite number for jet 2 \(1 of 60\)"), ("many", r"zlogz: '?\S+'?; exp")):
        path.write_text("\n".join([*lines[:3], f"{value},{lines[3].partition(',')[2]}", *lines[4:]]))
        with pytest.raises(InputError, match=message):
            made(path)
    table = columns(10)
    table[3, -6:] = 0
    np.savez(tmp_path / "jets.npz", jets=table, jetFeatureNames=np.array(NAMES))
    with pytest.raises(InputError, match=r"jets.npz: found jet 3 of 0 classes; expected one class per jet"):
        made(tmp_path / "jets.npz")


def test_what_is_not_there_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data.root: found nothing; expected a file or folder of jets"):
        Jets(root=None, **COMMON).setup()
    with pytest.raises(InputError, match="absent: found no such file or folder; expected a file or folder of jets"):
        made(tmp_path / "absent")
    with pytest.raises(InputError, match=r"found no table; expected folders train and val, or files \*.h5"):
        made(tmp_path)
    (tmp_path / "jets.txt").write_text("")
    with pytest.raises(InputError, match=r"jets.txt: found a file \*.txt; expected one of \*.h5"):
        made(tmp_path / "jets.txt")
    for name in ("jets.npz", "jets.h5", "jets.csv"):
        if name.endswith("h5"):
            pytest.importorskip("h5py", reason="the package h5py is not installed")
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=rf"{name}: found a damaged {name[5:]} file"):
            made(tmp_path / name)


def test_a_feature_that_is_the_same_for_all_training_jets_stays_finite(tmp_path: Path) -> None:
    table = columns(10)
    table[:, 4] = 3.0
    table[9, 4] = 5.0  # held out
    np.savez(tmp_path / "jets.npz", jets=table, jetFeatureNames=np.array(NAMES))
    data = made(tmp_path)
    ((rows, _),) = list(data.val_dataloader())
    assert rows[:, -1, 0, 0].tolist() == [0.0, 2.0]


def test_digits_as_a_table_are_the_scans_of_the_same_split() -> None:
    table = build("data", settings_of("data=digits_table")["data"])
    image = build("data", settings_of("data=digits_sweep")["data"])
    for data in (table, image):
        data.setup()
    for split in (0, 1):
        rows, scans = table.splits[split], image.splits[split]
        assert np.array_equal(np.rint(rows.features * 255), scans.images.reshape(len(scans), 64))
        assert np.array_equal(rows.targets, scans.targets)
    batch, labels = next(iter(table.val_dataloader()))
    assert batch.shape == (64, 64, 1, 1) and batch.min() >= 0.0 and batch.max() == 1.0 and len(labels) == 64
    assert table.fingerprint() != image.fingerprint()


def test_the_configuration_builds_it(tmp_path: Path) -> None:
    settings = settings_of("data=jets", f"data.root={write_jets_csv(tmp_path / 'jets.csv')}", "data.batch_size=8")
    data = build("data", settings["data"])
    data.setup()
    network = build("model", settings["model"], num_classes=len(data.classes), input_shape=data.input_shape)
    assert network.dense(next(iter(data.train_dataloader()))[0]).shape == (8, 5)
    assert (
        sum(p.numel() for name, p in network.dense.named_parameters() if name.endswith("weight") and p.ndim == 2)
        == 4256
    )
