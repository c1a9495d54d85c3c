"""ImageNet-1k: class folders, or the validation images as they are distributed, in one folder with a list of labels."""

import hashlib
import os
from pathlib import Path
from typing import Any

from oaq_repro.data import imagenet_labels, transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ClassificationData, FolderSamples, is_image, read_class_folders
from oaq_repro.data.fields import unexpected
from oaq_repro.data.notes import say
from oaq_repro.data.reading import MissingError, names_in, require_folder
from oaq_repro.fields import Count, PositiveFraction

Files = list[tuple[str, int]]


class ImageNet(ClassificationData):
    """`root`/train/<class>/<image> and `root`/val/<class>/<image> or `root`/val/<image>, any number of classes.

    Classes are those of train in the order of their names; val may lack some. Images in one folder take their labels
    from `root`/val.txt (lines "name index") or ILSVRC2012_validation_ground_truth.txt with the devkit's meta.mat.
    Without train nothing can be trained: `calibration_images` of the labelled images are for calibration, the others
    are held out, and the classes are those of synset_words.txt. `seed` says which (those whose names have the smallest
    SHA-256 with it), so that seeds are repeated random splits of the same data.

    Evaluation resizes the shorter side to image_size / crop_fraction (256 for 224) and takes the centre.
    """

    def __init__(
        self, *, crop_fraction: PositiveFraction = 0.875, calibration_images: Count = 256, **common: Any
    ) -> None:
        super().__init__(**common)
        if self.size[0] != self.size[1]:
            raise unexpected("data.image_size", f"{list(self.size)}", "one side")
        self.crop_fraction = crop_fraction
        self.calibration_images = calibration_images

    @property
    def benchmark(self) -> str | None:  # type: ignore[override]
        """ImageNet itself, whose classes are named by WordNet; not other class folders."""
        names = () if self._splits is None else self.classes
        return "imagenet" if all(imagenet_labels.WNID.fullmatch(name) for name in names) else None

    def read(self) -> tuple[FolderSamples, FolderSamples]:
        """List the images of train and val."""
        root = require_folder(self.root, "ImageNet with its folders train and val")
        self.trains = (root / "train").is_dir()
        if self.trains:
            names, train = read_class_folders(root / "train")
            self.counts |= {"train: classes": len(names), "train: images": len(train)}
        elif not (root / "val").is_dir():
            raise unexpected(root, "neither train nor val in it", "these folders of images", MissingError)
        else:
            names, train = imagenet_labels.class_names(root), []
        names, val = _labelled(root, names)
        self.counts["val: images"] = len(val)
        self.listed = FolderSamples(names, val)
        if not self.trains:
            train, val = self._for_calibration(root, val)
        return FolderSamples(names, train), FolderSamples(names, val)

    def _for_calibration(self, root: Path, files: Files) -> tuple[Files, Files]:
        count = self.calibration_images
        if count >= len(files):
            raise unexpected("data.calibration_images", count, f"fewer than the {len(files)} images of {root / 'val'}")
        text = "found no folder train: {} of the {} images in val are for calibration, {} are held out"
        say(root, text.format(count, len(files), len(files) - count))

        def rank(file: tuple[str, int]) -> bytes:
            return hashlib.sha256(os.fsencode(f"{self.seed}/{Path(file[0]).name}")).digest()

        chosen = set(sorted(files, key=rank)[:count])
        return [file for file in files if file in chosen], [file for file in files if file not in chosen]

    def identities(self) -> tuple[list[bytes], ...]:
        """Without train, all images together: which of them are held out is said by settings and seed."""
        splits = super().identities()
        return splits if self.trains else (sorted(self.listed.identity(int(i)) for i in self.listed.indices),)

    def transform(self, train: bool) -> Transform:
        """Random resized crop and flip; resize and central crop in evaluation."""
        return transforms.imagenet(self.size[0], train, self.crop_fraction, self.mean, self.std)


def _labelled(root: Path, names: tuple[str, ...]) -> tuple[tuple[str, ...], Files]:
    """Return the class names (those found in val where `names` is empty) and the images of val with their indices."""
    folder = root / "val"
    images = [name for name in names_in(folder, "the held-out images") if is_image(name)]
    if images:
        names, labels = imagenet_labels.read_labels(root, images, names)
        return names, [(str(folder / name), label) for name, label in labels.items()]
    val_names, val = read_class_folders(folder, all_have=False)
    names = names or val_names
    odd = sorted(set(val_names) - set(names))
    if odd:
        some = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
        raise unexpected(folder, f"{len(odd)} classes that are in val only: {some}", f"those of the {len(names)} known")
    positions = [names.index(name) for name in val_names]
    return names, [(path, positions[label]) for path, label in val]
