"""Sequences of digits, and folders of frames with lists."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layouts import photo, write_videos

from oaq_repro.data.digit_clips import KINDS, DigitClips
from oaq_repro.data.digits import scans
from oaq_repro.data.frame_folders import ActivityNet, VideoSamples
from oaq_repro.data.inspection import inspect_data
from oaq_repro.errors import InputError

DIGITS = {"batch_size": 8, "image_size": 12, "seed": 0, "mean": (0.2,), "std": (0.3,)}
FRAMES: dict[str, Any] = {"batch_size": 2, "image_size": 32, "seed": 0, "frames": 2}


def digit_clips(**changes: Any) -> DigitClips:
    return DigitClips(**{**DIGITS, "clips": 40, "val_clips": 60, **changes})


def test_batches_of_sequences() -> None:
    data = digit_clips()
    clips, labels = next(iter(data.train_dataloader()))
    assert clips.shape == (8, 6, 1, 12, 12) and clips.dtype == torch.float32
    assert labels.shape == (8,) and labels.dtype == torch.int64
    assert data.input_shape == (1, 12, 12) and len(data.classes) == 10
    assert sum(len(y) for _, y in data.val_dataloader()) == 60


@pytest.mark.parametrize("train", [True, False])
def test_every_easy_frame_is_a_scan_of_the_digit_from_its_own_split(train: bool) -> None:
    """So no held-out frame shows a scan that was trained on."""
    data = digit_clips()
    samples: Any = data.splits[0 if train else 1]
    images, digits = scans(train)
    known = {label: {image.tobytes() for image in images[digits == label]} for label in range(10)}
    for clip, label, kinds in zip(samples.clips, samples.targets, samples.kinds, strict=True):
        found = []
        for frame, kind in zip(clip[:, 0], kinds, strict=True):
            windows = {frame[i : i + 8, j : j + 8].tobytes() for i in range(5) for j in range(5)}
            there = windows & known[label]
            assert bool(there) == (KINDS[kind] == "easy")
            found += there
        assert len(found) == len(set(found))  # each another one


@pytest.mark.parametrize("hard", ["contrast", "blur"])
def test_kinds_of_frames(hard: str) -> None:
    data = digit_clips(val_clips=400, hard=hard)
    kinds = data.kinds_of_frames()
    shares = np.bincount(kinds.flatten(), minlength=3) / kinds.size
    np.testing.assert_allclose(shares, [0.35, 0.35, 0.3], atol=0.04)
    samples: Any = data.splits[1]
    means = [samples.clips[kinds == k].mean() for k in range(3)]
    assert means[1] < means[0] / 4 if hard == "contrast" else means[1] > means[0] / 2
    assert abs(samples.clips[kinds == 2].mean() - 80) < 5


def test_the_draws_are_part_of_the_data() -> None:
    """All seeds see the same sequences; another number of them or another kind of hard frames is other data."""
    first = digit_clips().fingerprint()
    assert digit_clips(seed=1).fingerprint() == first
    others = [digit_clips(hard="blur"), digit_clips(val_clips=61), digit_clips(covered=0.4), digit_clips(frames=5)]
    assert len({first, *(data.fingerprint() for data in others)}) == 5


def test_a_part_keeps_its_kinds() -> None:
    whole, part = digit_clips(), digit_clips(val_subset=20)
    assert np.array_equal(part.kinds_of_frames(), whole.kinds_of_frames()[part.splits[1].indices])


def folders(root: Path, **changes: Any) -> ActivityNet:
    return ActivityNet(root=root, **{**FRAMES, **changes})


def test_folders_of_frames(tmp_path: Path) -> None:
    data = folders(write_videos(tmp_path))
    clips, labels = next(iter(data.train_dataloader()))
    assert clips.shape == (2, 2, 3, 32, 32) and set(labels.tolist()) <= {0, 1}
    assert len(data.splits[1]) == 3 and len(data.classes) == 200 and data.kinds_of_frames() is None
    assert inspect_data(data).complete


def test_names_of_classes(tmp_path: Path) -> None:
    root = write_videos(tmp_path)
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(200)))
    assert folders(root).classes[199] == "class 199"
    (root / "classes.txt").write_text("one\n")
    with pytest.raises(InputError, match=r"classes.txt: found 1 classes; expected 200"):
        folders(root).setup()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("there", [1, 2, 5, 6, 120])
def test_a_frame_is_taken_from_every_part(there: int, train: bool) -> None:
    samples = VideoSamples(("a",), [], 6, train)
    for _ in range(20):
        found = samples.positions(there)
        assert found == sorted(found) and found[0] >= 0 and found[-1] < there
        if there == 120:
            assert [position // 20 for position in found] == [0, 1, 2, 3, 4, 5]
        if there == 6:
            assert found == [0, 1, 2, 3, 4, 5]


def test_random_frames_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    for number in range(4):
        for frame in range(40):
            photo(tmp_path / "videos" / f"v{number}" / f"{frame:03d}.jpg", 34, 34, 100 * number + frame)
    (tmp_path / "train.txt").write_text("".join(f"v{n} 40 0\n" for n in range(4)))
    (tmp_path / "val.txt").write_text("v0 40 0\n")
    loaders = [folders(tmp_path).train_dataloader() for _ in range(2)]
    first, again = (torch.cat([clips for clips, _ in loader]) for loader in loaders)
    second = torch.cat([clips for clips, _ in loaders[0]])
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a video without numbers", r"train.txt, line 6: found 'a video without numbers'; expected <path> <frames>"),
        ("train/video 0 3 200", r"train.txt, line 6: found class 200; expected at most 199"),
        ("no/such 3 0", r"no/such: found no such folder or file; expected the frames of a video in train.txt"),
        ("../../etc 3 0", r"train.txt, line 6: found ../../etc; expected a path below"),
    ],
)
def test_bad_lines_of_a_list(tmp_path: Path, line: str, message: str) -> None:
    root = write_videos(tmp_path)
    with (root / "train.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=message):
        folders(root).setup()


def test_lists_with_commas(tmp_path: Path) -> None:
    root = write_videos(tmp_path)
    (root / "val.txt").write_text("val/video 0,3,1\nval/video 1, 3, 0\n")
    samples: Any = folders(root).splits[1]
    assert [(name, label) for _, name, label in samples.videos] == [("val/video 0", 1), ("val/video 1", 0)]


def test_frames_of_other_sizes_and_a_folder_without_any(tmp_path: Path) -> None:
    root = write_videos(tmp_path)
    photo(root / "videos/val/video 0/00000.jpg", 20, 30)
    report = inspect_data(folders(root))
    assert any("found frames of 2 sizes; expected frames of one size" in finding.text for finding in report.findings)
    for path in (root / "videos/val/video 1").iterdir():
        path.unlink()
    report = inspect_data(folders(root))
    assert any("video 1: found no image; expected the frames of a video" in finding.text for finding in report.findings)


def video_file(root: Path) -> ActivityNet:
    (root / "videos").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("clip.mp4 10 0\nclip.mp4 10 0\n")
    (root / "videos/clip.mp4").write_bytes(b"no video")
    return folders(root)


def test_a_video_file_without_pyav_is_one_clear_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("oaq_repro.data.video_files.find_spec", lambda name: None if name == "av" else find(name))
    with pytest.raises(
        InputError, match=r"clip.mp4: found a video file, and no PyAV; expected folders of frames, or PyAV"
    ):
        next(iter(video_file(tmp_path).val_dataloader()))


def test_video_files_by_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV is not installed")
    data = video_file(tmp_path)
    with pytest.raises(InputError, match=r"clip.mp4: found a damaged video .*; expected a video that PyAV can decode"):
        next(iter(data.val_dataloader()))
    with av.open(str(tmp_path / "videos/clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(10):
            grey = np.full((32, 32, 3), 20 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    image, _ = data.splits[1].load(0)
    assert image.shape == (2, 3, 32, 32)
    means = image.float().mean((1, 2, 3)).tolist()
    assert means == pytest.approx([40, 140], abs=12)  # frames 2 and 7 of 10
