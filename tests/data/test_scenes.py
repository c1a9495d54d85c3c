import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from oaq_repro.data import scene_cache
from oaq_repro.data.scene_cache import ensure_scenes, voc_palette
from oaq_repro.data.scenes import SceneParameters, draw_scenes
from oaq_repro.errors import InputError
from oaq_repro.settings import schema

SMALL = {"side": 96, "train": 6, "val": 4, "least_height": 20, "most_height": 30, "most_objects": 3, "seed": 0}
PLAIN = {"photometric": False, "zoom_out": 0.0, "iou_crop": False, "flip": 0.0}


@pytest.fixture
def build(tmp_path: Path, common: dict[str, Any]) -> Callable[..., Any]:
    def make(task: str, layout: str, **change: Any) -> Any:
        own = PLAIN if task == "detection" else {"flip": 0.0}
        fields = {"kind": f"scenes_{task}", "format": layout, "root": str(tmp_path / "cache"), "scenes": SMALL, **own}
        return schema.build("data", {**fields, **common, "image_size": 96, **change})

    return make


def test_scenes_are_consistent() -> None:
    parameters = SceneParameters(**SMALL)
    scenes = list(draw_scenes(parameters, train=True))
    assert len(scenes) == 6 and len({scene.name for scene in scenes}) == 6
    for scene in scenes:
        assert scene.image.shape == (96, 96, 3) and 1 <= len(scene.objects) <= 3
        for item in scene.objects:
            x0, y0, x1, y1 = item.box
            assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 96 and item.mask[y0:y1, x0:x1].any()
            assert set(np.unique(scene.class_map[item.mask])) <= {item.label + 1, 255}
        covered = np.any([item.mask for item in scene.objects], axis=0)
        assert set(np.unique(scene.class_map[~covered])) <= {0, 255}
        assert sum(item.mask.astype(int) for item in scene.objects).max() == 1  # visible pixels belong to one object


def test_scenes_follow_from_parameters() -> None:
    def images(**change: Any) -> list[np.ndarray]:
        return [scene.image for scene in draw_scenes(SceneParameters(**(SMALL | change)), train=False)]

    first = images()
    assert all(np.array_equal(a, b) for a, b in zip(first, images(), strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(first, images(train=60, val=9), strict=False))
    assert not np.array_equal(first[0], images(seed=1)[0])
    assert SceneParameters(**SMALL).key() != SceneParameters(**(SMALL | {"seed": 1})).key()


def test_both_layouts_say_the_same(build: Callable[..., Any]) -> None:
    voc, coco = build("detection", "voc"), build("detection", "coco")
    assert voc.classes == coco.classes == tuple("0123456789")
    for (images, targets), (images2, targets2) in zip(voc.val_dataloader(), coco.val_dataloader(), strict=True):
        assert torch.equal(images, images2)
        for a, b in zip(targets, targets2, strict=True):
            assert torch.equal(a["boxes"], b["boxes"]) and torch.equal(a["labels"], b["labels"])
    voc, coco = build("segmentation", "voc"), build("segmentation", "coco")
    assert voc.classes == coco.classes == ("background", *"0123456789")
    for (_, masks), (_, masks2) in zip(voc.val_dataloader(), coco.val_dataloader(), strict=True):
        sure = masks != 255
        assert torch.equal(masks[sure], masks2[sure]) and sure.float().mean() > 0.9


def test_foreign_readers_accept_the_layouts(build: Callable[..., Any], tmp_path: Path) -> None:
    voc, coco = build("detection", "voc"), build("detection", "coco")
    voc.prepare_data()
    coco.prepare_data()
    api = COCO(coco.root / "annotations" / "instances_train2017.json")
    first = api.loadAnns(api.getAnnIds())[0]
    mask = api.annToMask(first)
    assert mask.sum() == first["area"] and mask.shape == (96, 96)
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(voc.root)
    image, target = VOCDetection(tmp_path, year="2012", image_set="train")[0]
    assert image.size == (96, 96) and target["annotation"]["object"][0]["name"] in "0123456789"
    with Image.open(next((voc.root / "SegmentationClass").iterdir())) as mask_image:
        assert mask_image.mode == "P" and mask_image.getpalette()[:9] == voc_palette()[:9]


def test_voc_palette() -> None:
    palette = voc_palette()
    assert [palette[3 * i : 3 * i + 3] for i in (0, 1, 2, 15, 20, 255)] == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


def test_written_once_and_half_written_never_used(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameters, root = SceneParameters(**SMALL), tmp_path / "cache"
    write, calls = scene_cache.write_voc, []

    def interrupted(folder: Path, parameters: SceneParameters) -> None:
        write(folder, parameters)
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(scene_cache, "write_voc", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure_scenes(parameters, "voc", root)
    assert [path.name for path in (root / parameters.key()).iterdir()] in ([], ["voc.lock"])
    final = ensure_scenes(parameters, "voc", root)
    assert ensure_scenes(parameters, "voc", root) == final and len(calls) == 2
    data = build("detection", "voc")
    data.setup()
    assert len(calls) == 2 and data.root == final


def _ensure(root: Path) -> Path:
    return ensure_scenes(SceneParameters(**SMALL), "coco", root)


def test_two_processes_write_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_ensure, [tmp_path, tmp_path])
    assert first == second and not [path for path in first.parent.iterdir() if path.name.startswith(".coco")]


def test_unwritable_cache_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"found no way to write scenes .*; expected a place for them \(data\.root"):
        ensure_scenes(SceneParameters(**SMALL), "voc", tmp_path / "file")


def test_fingerprint_follows_parameters(build: Callable[..., Any]) -> None:
    base = build("detection", "voc").fingerprint()
    assert build("detection", "voc", seed=5, batch_size=1).fingerprint() == base
    for other in (
        build("segmentation", "voc"),
        build("detection", "voc", subset=3),
        build("detection", "voc", scenes=SMALL | {"seed": 2}),
    ):
        assert other.fingerprint() != base


def test_bad_fields(build: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"data\.kind: found 'scenes_classification'"):
        build("classification", "voc")
    with pytest.raises(InputError, match=r"data\.format: found 'yolo', expected 'voc' or 'coco'"):
        build("detection", "yolo")
    with pytest.raises(InputError, match=r"data\.scenes\.width: no such field; expected one of side"):
        build("detection", "voc", scenes={"width": 3})
    with pytest.raises(InputError, match=r"data\.scenes\.train: found 0, expected greater than or equal to 1"):
        build("detection", "voc", scenes=SMALL | {"train": 0})
    with pytest.raises(
        InputError, match=r"data\.scenes\.least_height, most_height: found 30 and 20, expected 8 to half"
    ):
        build("detection", "voc", scenes=SMALL | {"least_height": 30, "most_height": 20})
    with pytest.raises(InputError, match=r"data\.flip: found 2"):
        build("detection", "voc", flip=2)
