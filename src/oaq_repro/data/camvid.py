"""CamVid as SegNet's authors distribute it: 11 classes, index PNGs, 11 = void."""

from pathlib import Path

from oaq_repro.data.fields import unexpected
from oaq_repro.data.reading import MissingError, index_by_stem, require_files, require_folder
from oaq_repro.data.segmentation import MaskFile, MaskFileSamples, SegmentationData

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = len(CLASSES)


class CamVid(SegmentationData):
    """`root`/{train,val} and the masks of the same names in `root`/{train,val}annot."""

    benchmark = "camvid"

    def read(self) -> tuple[MaskFileSamples, MaskFileSamples]:
        """List images and masks of both splits."""
        root = require_folder(self.root, "CamVid with train, trainannot, val, valannot")
        train, val = (MaskFileSamples(CLASSES, self._files(root, split), VOID) for split in ("train", "val"))
        return train, val

    def _files(self, root: Path, split: str) -> list[MaskFile]:
        images = index_by_stem(root / split, (".png", ".jpg", ".jpeg"))
        masks = index_by_stem(root / f"{split}annot", (".png",))
        if not images:
            raise unexpected(root / split, "no images", "*.png or *.jpg", MissingError)
        self.counts[f"{split}: images"] = len(images)
        require_files(root / f"{split}annot", list(images), masks, f"the mask of an image in {split}", ".png")
        return [MaskFile(images[name], masks[name]) for name in images]
