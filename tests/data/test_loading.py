from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from oaq_repro.data.base import first_balanced
from oaq_repro.data.digits import Digits
from oaq_repro.data.imagenet import ImageNet
from oaq_repro.errors import InputError
from oaq_repro.settings.schema import build

DIGITS: dict[str, Any] = {"batch_size": 32, "image_size": 16, "seed": 3, "mean": [0.31], "std": [0.38]}


def epoch(data: pl.LightningDataModule) -> list[torch.Tensor]:
    return [images for images, _ in data.train_dataloader()]


def test_batches_depend_on_the_seed_and_not_on_workers() -> None:
    first = epoch(Digits(**DIGITS))
    torch.manual_seed(99)
    for again in (epoch(Digits(**DIGITS)), epoch(Digits(num_workers=2, **DIGITS))):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], epoch(Digits(**(DIGITS | {"seed": 4})))[0])


def test_loading_leaves_the_global_random_state_alone() -> None:
    loader = Digits(**DIGITS).train_dataloader()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    next(iter(loader))
    assert torch.equal(torch.rand(3), expected)


def test_epochs_differ_and_resume_exactly() -> None:
    loader = Digits(**DIGITS).train_dataloader()
    epochs = [next(iter(loader))[0] for _ in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    resumed = Digits(**DIGITS).train_dataloader()
    resumed.sampler.set_epoch(2)
    assert torch.equal(next(iter(resumed))[0], epochs[2])


def test_calibration_is_the_training_split_in_order_without_augmentation() -> None:
    data = Digits(**DIGITS)
    images = torch.cat([images for images, _ in data.calibration_dataloader()])
    labels = torch.cat([labels for _, labels in data.calibration_dataloader()])
    assert len(images) == 1437 and torch.equal(labels, torch.from_numpy(data.splits[0].labels()))
    again = torch.cat([images for images, _ in data.calibration_dataloader()])
    assert torch.equal(images, again)


def test_train_loader_drops_the_last_batch_and_val_does_not() -> None:
    data = Digits(**DIGITS)
    assert [len(images) for images in epoch(data)] == [32] * (1437 // 32)
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 360


def test_subset_is_balanced_and_fixed() -> None:
    data = Digits(subset=50, val_subset=20, **DIGITS)
    assert np.bincount(data.splits[0].labels()).tolist() == [5] * 10
    assert len(data.splits[1]) == 20
    other_seed = Digits(subset=50, val_subset=20, **(DIGITS | {"seed": 8}))
    assert other_seed.fingerprint() == data.fingerprint()
    assert Digits(subset=51, val_subset=20, **DIGITS).fingerprint() != data.fingerprint()


def test_first_balanced_takes_round_robin_and_keeps_order() -> None:
    assert first_balanced(np.array([0, 0, 0, 1, 1, 2]), 5).tolist() == [0, 1, 3, 4, 5]
    assert first_balanced(np.zeros(4), 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "data.batch_size: found 0, expected greater than or equal to 1"),
        ({"batch_size": 2000}, "data.batch_size: found 2000; expected at most the 1437 training samples"),
        ({"num_workers": -1}, "data.num_workers"),
        ({"image_size": [16, 16, 3]}, "data.image_size"),
        ({"image_size": 0.5}, "data.image_size"),
        ({"seed": "x"}, "data.seed"),
        ({"subset": 5000}, "data.subset: found 5000; expected at most the 1437 samples"),
        ({"std": [0.0]}, "data.std.0: found 0.0, expected greater than 0"),
        ({"mean": [0.5, 0.5]}, "data.mean, data.std"),
    ],
)
def test_bad_fields(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build("data", {"kind": "digits"} | DIGITS | change).setup()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_in_workers_are_the_one_message(
    tmp_path: Path, class_folders: Any, common: dict[str, Any], workers: int
) -> None:
    for split in ("train", "val"):
        class_folders(tmp_path / split, 3)
    broken = tmp_path / "train" / "dog" / "0001.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    data = ImageNet(root=tmp_path, **(common | {"num_workers": workers}))
    data.setup()
    with pytest.raises(InputError) as caught:
        list(data.train_dataloader())
    message = str(caught.value)
    assert message.startswith(f"{broken}: found a damaged image") and "\n" not in message and "Traceback" not in message


def test_lightning_trains_on_it(tmp_path: Path) -> None:
    class Linear(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(256, 10)
            self.seen: list[torch.Tensor] = []

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            self.seen.append(batch[0][0].clone())
            return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Linear()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=2, enable_model_summary=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(module, datamodule=Digits(subset=64, **DIGITS))
    loader = Digits(subset=64, **DIGITS).train_dataloader()
    expected = [images[0] for _ in range(2) for images, _ in loader]
    assert all(torch.equal(a, b) for a, b in zip(module.seen, expected, strict=True))
