from pathlib import Path
from typing import Any

import pytest
from layouts import WNIDS, write_tiny_imagenet

from oaq_repro.data.tiny_imagenet import TinyImageNet
from oaq_repro.errors import InputError


def made(root: Path, common: dict[str, Any]) -> TinyImageNet:
    data = TinyImageNet(root=root, **common)
    data.setup()
    return data


def test_the_layout_as_it_is_distributed(tmp_path: Path, common: dict[str, Any]) -> None:
    data = made(write_tiny_imagenet(tmp_path), common)
    assert data.classes == WNIDS and (len(data.splits[0]), len(data.splits[1])) == (12, 12)
    assert {Path(path).name: label for path, label in data.splits[1].files} == {
        f"val_{i}.JPEG": i % 3 for i in range(12)
    }
    assert all(WNIDS[label] in path for path, label in data.splits[0].files)
    assert data.counts == {"train: classes": 3, "train: images": 12, "val: images": 12}


@pytest.mark.parametrize(
    "lines, message",
    [
        ("", r"val_annotations.txt: found an empty list"),
        ("val_0.JPEG\n", r"val_annotations.txt: found 'val_0.JPEG'; expected a name and one of the 3 classes"),
        ("val_0.JPEG\tn00000000\t0\t0\t1\t1\n", r"found 'val_0.JPEG n00000000 0 0 1 1'; expected a name and one"),
        (
            f"val_0.JPEG {WNIDS[0]}\nval_0.JPEG {WNIDS[1]}\n",
            r"val_annotations.txt: found .*val_0.JPEG.*every image once",
        ),
        (f"absent.JPEG {WNIDS[0]}\n", r"absent.JPEG: found no such file; expected the images that val_annotations"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, common: dict[str, Any], lines: str, message: str) -> None:
    root = write_tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").write_text(lines)
    with pytest.raises(InputError, match=message):
        made(root, common)


def test_missing_parts_are_named(tmp_path: Path, common: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="train: found no such folder"):
        made(tmp_path, common)
    root = write_tiny_imagenet(tmp_path)
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(InputError, match=r"val_annotations.txt: found no such file"):
        made(root, common)
