"""Scenes: real digit scans placed on textured backgrounds, for detection and segmentation without any download.

Each object is a scan of digits.py, enlarged, printed in one colour on a sticker of a contrasting colour that follows
the digit's outline; the sticker is the object (its box and its mask). Held-out scenes use held-out scans only.
Everything follows from SceneParameters and VERSION: a number measured here compares with others measured here, and
with nothing else.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image, ImageFilter

from oaq_repro.data.digits import CLASSES, scans
from oaq_repro.errors import SettingsError
from oaq_repro.fields import Count, Seed, Size

VERSION = 1
"""Raised with every change of what the same parameters draw."""
HELD_OUT_NAMES = 500_001
"""Names are numbers; those of held-out scenes begin here."""


@dataclass(frozen=True)
class SceneParameters:
    """What is drawn: image side in pixels, scenes per split, object height in pixels, objects per scene, seed."""

    side: Size = 96
    train: Count = 1200
    val: Count = 200
    least_height: Count = 20
    most_height: Count = 40
    most_objects: Count = 4
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not 8 <= self.least_height <= self.most_height <= self.side // 2:
            found = f"{self.least_height} and {self.most_height}"
            raise SettingsError(f"least_height, most_height: found {found}, expected 8 to half of side={self.side}")

    def key(self) -> str:
        """Return what names the cache folder: parameters and VERSION as 16 hex digits."""
        return hashlib.sha256(json.dumps([VERSION, asdict(self)], sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class SceneObject:
    """A placed digit: class index, and its visible pixels as bool [side, side]."""

    label: int
    mask: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Half-open box (x0, y0, x1, y1) of the visible pixels."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass
class Scene:
    """Image uint8 [side, side, 3], its objects, and the class map uint8 (0 background, 1 + digit, 255 soft edges)."""

    name: str
    image: np.ndarray
    objects: list[SceneObject]
    class_map: np.ndarray


def draw_scenes(parameters: SceneParameters, train: bool) -> Iterator[Scene]:
    """Draw the scenes of one split; scene i depends on the parameters, the split and i, not on their numbers."""
    images, labels = scans(train)
    first, count = (1, parameters.train) if train else (HELD_OUT_NAMES, parameters.val)
    for number in range(count):
        rng = np.random.default_rng([parameters.seed, int(train), number])
        yield _draw(rng, f"{first + number:06d}", images, labels, parameters)


def _draw(
    rng: np.random.Generator, name: str, images: np.ndarray, labels: np.ndarray, parameters: SceneParameters
) -> Scene:
    side = parameters.side
    canvas = _background(rng, side)
    class_map = np.zeros((side, side), dtype=np.uint8)
    objects: list[SceneObject] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(1, parameters.most_objects + 1))):
        index = int(rng.integers(len(images)))
        height = int(rng.integers(parameters.least_height, parameters.most_height + 1))
        sticker, ink = _sticker(images[index], height)
        place = _place(rng, sticker.shape, boxes, side)
        if place is None:
            continue
        boxes.append(place)
        x0, y0, x1, y1 = place
        dark, light = rng.uniform(0, 80, 3), rng.uniform(175, 255, 3)
        body_colour, ink_colour = (light, dark) if rng.random() < 0.5 else (dark, light)
        region = canvas[y0:y1, x0:x1]
        region += sticker[..., None] * (body_colour - region)
        region += ink[..., None] * (ink_colour - region)
        mask = np.zeros((side, side), dtype=bool)
        mask[y0:y1, x0:x1] = sticker >= 0.5
        for other in objects:
            other.mask &= ~mask
        label = int(labels[index])
        objects.append(SceneObject(label, mask))
        part = class_map[y0:y1, x0:x1]
        part[sticker >= 0.5] = label + 1
        part[(sticker > 0.2) & (sticker < 0.8)] = 255
    canvas += rng.normal(0, rng.uniform(2, 8), canvas.shape)
    return Scene(name, np.clip(np.rint(canvas), 0, 255).astype(np.uint8), objects, class_map)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth colour clouds of random coarseness, often with stripes; float [side, side, 3] around mid grey."""
    cells = int(rng.integers(2, 9))
    clouds = rng.uniform(40, 215, (cells, cells, 3)).astype(np.uint8)
    canvas = np.asarray(Image.fromarray(clouds).resize((side, side), Image.Resampling.BICUBIC)).astype(np.float64)
    if rng.random() < 0.5:
        angle, period = rng.uniform(0, np.pi), rng.uniform(4, 24)
        rows, columns = np.mgrid[:side, :side]
        wave = np.sin(2 * np.pi / period * (rows * np.sin(angle) + columns * np.cos(angle)))
        canvas += wave[..., None] * rng.uniform(5, 30, 3)
    return canvas


def _sticker(scan: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return opacities in [0, 1] of sticker and ink, both [height, width], from a scan uint8 [8, 8]."""
    rows, columns = np.flatnonzero(scan.max(axis=1) > 32), np.flatnonzero(scan.max(axis=0) > 32)
    ink = Image.fromarray(scan[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    margin = max(2, round(height / 8))
    inner = height - 2 * margin
    width = max(4, round(inner * ink.width / ink.height))
    page = Image.new("L", (width + 2 * margin, height))
    page.paste(ink.resize((width, inner), Image.Resampling.BICUBIC), (margin, margin))
    around = page.point(lambda v: 255 if v > 64 else 0).filter(ImageFilter.MaxFilter(2 * max(1, margin - 1) + 1))
    soft = around.filter(ImageFilter.GaussianBlur(0.8))
    return np.asarray(soft) / 255.0, np.clip(np.asarray(page) / 200.0, 0, 1)


def _place(
    rng: np.random.Generator, shape: tuple[int, ...], boxes: list[tuple[int, int, int, int]], side: int
) -> tuple[int, int, int, int] | None:
    """Return a free box (x0, y0, x1, y1), overlapping others by an eighth of the smaller at most. None: no room."""
    height, width = shape[:2]
    for _ in range(30):
        x0, y0 = int(rng.integers(0, side - width + 1)), int(rng.integers(0, side - height + 1))
        box = (x0, y0, x0 + width, y0 + height)
        if all(_overlap(box, other) <= 1 / 8 for other in boxes):
            return box
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / min(areas)


SCENE_CLASSES = CLASSES
"""Names of the objects' classes; masks have the background before them."""
