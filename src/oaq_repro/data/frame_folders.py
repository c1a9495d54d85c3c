"""Videos as folders of frames, or as files, and lists of them: ActivityNet, FCVID, Mini-Kinetics.

    root/train.txt, root/val.txt   a video a line: its path below `videos`, the number of its frames, and its class, a
                                   number from 0
    root/classes.txt               names of the classes, one a line; where it is absent numbers are the names
    root/videos/<path>             a folder of frames, in the order of their names, or a video file (with PyAV)

Commas may stand in the place of spaces. Videos of several classes are not read. The number of frames is that of the
folder, whatever the list says.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.classification import is_image
from oaq_repro.data.fields import unexpected
from oaq_repro.data.images import read_image
from oaq_repro.data.loading import Samples
from oaq_repro.data.reading import MissingError, names_in, read_lines, require_folder
from oaq_repro.data.video import VideoData
from oaq_repro.data.video_files import SUFFIXES, read_frames
from oaq_repro.fields import Fraction, Size, Text

FOLDER = "videos"
LINE = re.compile(r"^(?P<path>.+?)[\s,]+(?P<frames>\d+)[\s,]+(?P<label>\d+)$")
WANTED = "<path> <frames> <class>, both numbers"


class VideoSamples(Samples):
    """Videos with class indices; `count` frames of each, one from each of as many equal parts.

    The middle one of its part; in training a random one.
    """

    def __init__(self, classes: tuple[str, ...], videos: list[tuple[Path, str, int]], count: int, train: bool) -> None:
        """videos: path, its name in the list, class."""
        super().__init__(classes, len(videos))
        self.videos, self.count, self.train = videos, count, train

    def load(self, index: int) -> tuple[tv_tensors.Image, int]:
        """Return the frames as one image of [T, 3, H, W], which transforms treat alike, and the class."""
        path, _, label = self.videos[index]
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            return tv_tensors.Image(read_frames(path, self.positions)), label
        names = [name for name in names_in(path, "a folder of frames") if is_image(name)]
        if not names:
            raise unexpected(path, "no image", "the frames of a video", MissingError)
        frames = [read_image(path / names[i]) for i in self.positions(len(names))]
        shapes = {tuple(frame.shape) for frame in frames}
        if len(shapes) > 1:
            raise unexpected(path, f"frames of {len(shapes)} sizes", "frames of one size")
        return tv_tensors.Image(torch.stack(frames)), label

    def positions(self, there: int) -> list[int]:
        """Which of so many frames are taken; some more than once where there are fewer than wanted."""
        inside = torch.rand(self.count) if self.train else torch.full((self.count,), 0.5)
        found = ((torch.arange(self.count) + inside) * there / self.count).floor().long()
        return found.clamp(max=there - 1).tolist()

    def identity(self, index: int) -> bytes:
        """Name in the list and label."""
        _, name, label = self.videos[index]
        return f"{name}\0{label}".encode("utf-8", "surrogateescape")

    def labels(self) -> np.ndarray:
        """Class of every used video."""
        return np.array([label for _, _, label in self.videos], dtype=np.int64)[self.indices]


class FrameFolders(VideoData):
    """Folders of frames with lists (module docstring). train_list, val_list: names of these files below the root.

    crop_fraction: part of the shorter side that evaluation crops.
    """

    count_of_classes: ClassVar[int]

    def __init__(
        self,
        *,
        frames: Size = 16,
        train_list: Text = "train.txt",
        val_list: Text = "val.txt",
        crop_fraction: Fraction = 0.875,
        **common: Any,
    ) -> None:
        super().__init__(frames=frames, **common)
        self.lists, self.crop_fraction = (train_list, val_list), crop_fraction

    def read(self) -> tuple[VideoSamples, VideoSamples]:
        """Read both lists, and check that every video is there."""
        root = require_folder(self.root, "lists of videos")
        file = root / "classes.txt"
        names = read_lines(file, "a name of a class a line") if file.is_file() else None
        if names is not None and len(names) != self.count_of_classes:
            raise unexpected(file, f"{len(names)} classes", self.count_of_classes)
        classes = tuple(names or map(str, range(self.count_of_classes)))
        train, val = (
            VideoSamples(classes, read_list(root, name, len(classes)), self.frames, train)
            for name, train in zip(self.lists, (True, False), strict=True)
        )
        return train, val

    def kinds_of_frames(self) -> None:
        """Nobody knows."""

    def transform(self, train: bool) -> Transform:
        """ImageNet's, alike for all frames of a clip."""
        if self.size[0] != self.size[1]:
            raise unexpected("data.image_size", list(self.size), "one number: clips are cropped to squares")
        return transforms.imagenet(self.size[0], train, self.crop_fraction, self.mean, self.std)


class ActivityNet(FrameFolders):
    """ActivityNet 1.3: 200 classes."""

    count_of_classes = 200


class FCVID(FrameFolders):
    """Fudan-Columbia Video Dataset: 239 classes."""

    count_of_classes = 239


class MiniKinetics(FrameFolders):
    """The 200 classes of Kinetics that AR-Net and VideoIQ use."""

    count_of_classes = 200


def read_list(root: Path, name: str, classes: int) -> list[tuple[Path, str, int]]:
    """Path, name and class of every video in a list; InputError naming the line, or the first video that is absent."""
    found = [_video(root, name, number, line, classes) for number, line in _numbered(root / name)]
    if absent := [path for path, _, _ in found if not path.exists()]:
        more = f", nor are {len(absent) - 1} more of {len(found)} there" if len(absent) > 1 else ""
        raise unexpected(absent[0], f"no such folder or file{more}", f"the frames of a video in {name}", MissingError)
    return found


def _numbered(path: Path) -> Sequence[tuple[int, str]]:
    return list(enumerate(read_lines(path, WANTED), start=1))


def _video(root: Path, name: str, number: int, line: str, classes: int) -> tuple[Path, str, int]:
    where, match = f"{root / name}, line {number}", LINE.match(line)
    if match is None:
        raise unexpected(where, repr(line), WANTED)
    label, path = int(match["label"]), root / FOLDER / match["path"]
    if label >= classes:
        raise unexpected(where, f"class {label}", f"at most {classes - 1}")
    if not path.resolve().is_relative_to((root / FOLDER).resolve()):
        raise unexpected(where, match["path"], f"a path below {root / FOLDER}")
    return path, match["path"], label
