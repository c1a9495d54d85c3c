"""Scenes on disk in the layouts of VOC and COCO, written once, and the data modules that read them back."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from PIL import Image
from platformdirs import user_cache_path
from pycocotools import mask as coco_mask

from oaq_repro.data.base import DataModule
from oaq_repro.data.coco import CocoDetection, CocoSegmentation
from oaq_repro.data.fields import unexpected
from oaq_repro.data.scenes import SCENE_CLASSES, VERSION, Scene, SceneParameters, draw_scenes
from oaq_repro.data.voc import VocDetection, VocSegmentation

QUALITY = 95
SPLITS = (("train", True), ("val", False))


def ensure_scenes(parameters: SceneParameters, layout: str, root: Path | None) -> Path:
    """Return the folder with these scenes, writing it at the first call.

    `root` null is the user's cache folder. The scenes are written beside their place and renamed at the end, under a
    file lock: a half-written folder is never read, two processes write it once. InputError when the disk refuses.
    """
    base = (user_cache_path("oaq_repro") / "scenes" if root is None else root) / parameters.key()
    final = base / layout
    if final.is_dir():
        return final
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f"{layout}.lock"):
            if final.is_dir():
                return final
            partial = Path(tempfile.mkdtemp(prefix=f".{layout}.", dir=base))
            try:
                (write_voc if layout == "voc" else write_coco)(partial, parameters)
                partial.chmod(0o755)  # mkdtemp makes private folders
                os.rename(partial, final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise unexpected(base, f"no way to write scenes ({reason})", "a place for them (data.root=...)") from None
    return final


def write_voc(folder: Path, parameters: SceneParameters) -> None:
    """Write JPEGImages, Annotations, ImageSets/{Main,Segmentation} and SegmentationClass (palette PNG)."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationClass"):
        (folder / name).mkdir(parents=True)
    for split, train in SPLITS:
        names = []
        for scene in draw_scenes(parameters, train):
            names.append(scene.name)
            Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{scene.name}.jpg", quality=QUALITY)
            (folder / "Annotations" / f"{scene.name}.xml").write_text(_xml(scene), encoding="utf-8")
            mask = Image.fromarray(scene.class_map)
            mask.putpalette(voc_palette())
            mask.save(folder / "SegmentationClass" / f"{scene.name}.png")
        for kind in ("Main", "Segmentation"):
            (folder / "ImageSets" / kind / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_coco(folder: Path, parameters: SceneParameters) -> None:
    """Write train2017, val2017 and annotations/instances_*.json with run-length masks."""
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": name, "supercategory": "digit"} for i, name in enumerate(SCENE_CLASSES, start=1)]
    annotation_id = 0
    for split, train in SPLITS:
        images, annotations = [], []
        (folder / f"{split}2017").mkdir()
        for scene in draw_scenes(parameters, train):
            side, image_id, file_name = parameters.side, int(scene.name), f"{int(scene.name):012d}.jpg"
            Image.fromarray(scene.image).save(folder / f"{split}2017" / file_name, quality=QUALITY)
            images.append({"id": image_id, "file_name": file_name, "width": side, "height": side})
            for item in scene.objects:
                annotation_id += 1
                x0, y0, x1, y1 = item.box
                encoded = coco_mask.encode(np.asfortranarray(item.mask, dtype=np.uint8))
                annotations.append(
                    {
                        "id": annotation_id,
                        "image_id": image_id,
                        "category_id": item.label + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": int(item.mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": [side, side], "counts": encoded["counts"].decode("ascii")},
                    }
                )
        content = {
            "info": {"description": __doc__},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content), encoding="utf-8")


def voc_palette() -> list[int]:
    """VOC's colour map: the bits of the index, spread over the high bits of red, green and blue."""
    palette = []
    for index in range(256):
        for channel in range(3):
            bits = (index >> (3 * place + channel) & 1 for place in range(8))
            palette.append(sum(bit << (7 - place) for place, bit in enumerate(bits) if place < 8))
    return palette


def _xml(scene: Scene) -> str:
    side = scene.image.shape[0]
    objects = []
    for item in scene.objects:
        x0, y0, x1, y1 = item.box
        corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        objects.append(
            f"<object><name>{SCENE_CLASSES[item.label]}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{corners}</bndbox></object>"
        )
    size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
    head = f"<folder>scenes</folder><filename>{scene.name}.jpg</filename>{size}<segmented>1</segmented>"
    return "<annotation>\n" + "\n".join([head, *objects]) + "\n</annotation>\n"


class Scenes(DataModule):
    """What scenes add to the readers of VOC and COCO: writing first, and a fingerprint of the generator."""

    def __init__(self, *, root: str | Path | None, layout: str, parameters: SceneParameters, **common: Any) -> None:
        super().__init__(root=root, **common)
        self.layout, self.parameters, self.cache = layout, parameters, self.root

    def prepare_data(self) -> None:
        """Write the scenes unless they are there."""
        self.root = ensure_scenes(self.parameters, self.layout, self.cache)

    def fingerprint(self) -> str:
        """Return the SHA-256 of task, layout, generator parameters, version and subsets: pixels follow from them."""
        what = [self.task, self.layout, VERSION, asdict(self.parameters), self.subset, self.val_subset]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


class VocSceneDetection(Scenes, VocDetection):
    """Scenes for detection, in VOC's layout."""


class CocoSceneDetection(Scenes, CocoDetection):
    """Scenes for detection, in COCO's layout."""


class VocSceneSegmentation(Scenes, VocSegmentation):
    """Scenes for segmentation, in VOC's layout."""


class CocoSceneSegmentation(Scenes, CocoSegmentation):
    """Scenes for segmentation, in COCO's layout."""


Layout = Literal["voc", "coco"]
SCENES = SceneParameters()


def detection_scenes(
    scenes: SceneParameters = SCENES, format: Layout = "voc", **common: Any
) -> VocSceneDetection | CocoSceneDetection:
    """Return scenes for detection in the layout `format`; `common`: what `DetectionData` takes."""
    given = {"layout": format, "parameters": scenes, **common}
    if format == "voc":
        return VocSceneDetection(classes=SCENE_CLASSES, **given)
    return CocoSceneDetection(**given)


def segmentation_scenes(
    scenes: SceneParameters = SCENES, format: Layout = "voc", **common: Any
) -> VocSceneSegmentation | CocoSceneSegmentation:
    """Return scenes for segmentation in the layout `format`; `common`: what `SegmentationData` takes."""
    given = {"layout": format, "parameters": scenes, **common}
    if format == "voc":
        return VocSceneSegmentation(classes=("background", *SCENE_CLASSES), **given)
    return CocoSceneSegmentation(classes="all", min_area=0, **given)
