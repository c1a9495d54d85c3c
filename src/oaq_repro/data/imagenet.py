"""ImageNet-1k from class folders, as torchvision's and everybody's scripts expect it."""

from typing import Any

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.checks import require_folder, unexpected
from oaq_repro.data.classification import ClassificationData, FolderSamples, read_class_folders


class ImageNet(ClassificationData):
    """`root`/train/<class>/<image> and `root`/val/<class>/<image>, any number of classes.

    Evaluation resizes the shorter side to image_size / crop_fraction (256 for 224) and takes the centre.
    """

    def __init__(self, *, crop_fraction: float = 0.875, **common: Any) -> None:
        super().__init__(**common)
        if not 0 < crop_fraction <= 1:
            raise unexpected("data.crop_fraction", crop_fraction, "above 0, at most 1")
        if self.size[0] != self.size[1]:
            raise unexpected("data.image_size", f"{list(self.size)}", "one side")
        self.crop_fraction = crop_fraction

    def read(self) -> tuple[FolderSamples, FolderSamples]:
        """List the images of train and val; both must have the same classes."""
        root = require_folder(self.root, "ImageNet with its folders train and val")
        names, train = read_class_folders(root / "train")
        val_names, val = read_class_folders(root / "val")
        if names != val_names:
            odd = sorted(set(names) ^ set(val_names))
            some = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "")
            raise unexpected(
                f"{root / 'val'}",
                f"{len(val_names)} classes",
                f"the {len(names)} of train (only in one of them: {some})",
            )
        return FolderSamples(names, train), FolderSamples(names, val)

    def transform(self, train: bool) -> Transform:
        """Random resized crop and flip; resize and central crop in evaluation."""
        return transforms.imagenet(self.size[0], train, self.crop_fraction, self.mean, self.std)
