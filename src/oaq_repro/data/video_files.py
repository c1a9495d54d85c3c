"""Frames of video files, by PyAV, which is no part of this package's extras: folders of frames need it not."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from oaq_repro.data.fields import unexpected
from oaq_repro.data.reading import MissingError, reading

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v")
PACKAGE = "av"


def read_frames(path: Path, positions: Callable[[int], list[int]]) -> torch.Tensor:
    """Frames of a video file, RGB uint8 [T, 3, H, W]. positions: which of so many frames, in rising order.

    The whole file is decoded: only then is the number of its frames known. InputError without PyAV, and for a file that
    cannot be decoded.
    """
    if find_spec(PACKAGE) is None:
        remedy = "folders of frames, or PyAV (pip install av), which reads video files"
        raise unexpected(path, "a video file, and no PyAV", remedy, MissingError)
    import av

    with reading(path, "video", "a video that PyAV can decode"), av.open(str(path)) as file:
        count = sum(1 for _ in file.decode(video=0))
    if not count:
        raise unexpected(path, "no frame", "a video")
    wanted = positions(count)
    kept: dict[int, np.ndarray] = {}
    with reading(path, "video", "a video that PyAV can decode"), av.open(str(path)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number in set(wanted):
                kept[number] = frame.to_ndarray(format="rgb24")
            if number >= wanted[-1]:
                break
    return torch.from_numpy(np.stack([kept[number] for number in wanted])).permute(0, 3, 1, 2).contiguous()
