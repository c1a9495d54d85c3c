"""CamVid as SegNet's authors distribute it: 11 classes, index PNGs, 11 = void."""

from pathlib import Path

import torch
from torchvision import tv_tensors

from oaq_repro.data.checks import index_by_stem, require_folder, unexpected
from oaq_repro.data.images import IGNORE, read_image, read_mask
from oaq_repro.data.segmentation import MaskFile, MaskFileSamples, SegmentationData

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = len(CLASSES)


class CamVidSamples(MaskFileSamples):
    """Index PNGs in which 11 is void."""

    def load(self, index: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Return image and mask; void becomes 255."""
        file = self.files[index]
        image = read_image(file.image)
        mask = read_mask(file.mask, len(CLASSES) + 1, (image.shape[1], image.shape[2]))
        return image, tv_tensors.Mask(torch.where(mask == VOID, IGNORE, mask))


class CamVid(SegmentationData):
    """`root`/{train,val} and the masks of the same names in `root`/{train,val}annot."""

    def read(self) -> tuple[CamVidSamples, CamVidSamples]:
        """List images and masks of both splits."""
        root = require_folder(self.root, "CamVid with train, trainannot, val, valannot")
        return CamVidSamples(CLASSES, self._files(root, "train")), CamVidSamples(CLASSES, self._files(root, "val"))

    @staticmethod
    def _files(root: Path, split: str) -> list[MaskFile]:
        images = index_by_stem(root / split, (".png", ".jpg", ".jpeg"))
        masks = index_by_stem(root / f"{split}annot", (".png",))
        if not images:
            raise unexpected(f"{root / split}", "no images", "*.png or *.jpg")
        for name in images:
            if name not in masks:
                raise unexpected(
                    f"{root / f'{split}annot' / name}.png", "no such file", f"the mask of {images[name].name}"
                )
        return [MaskFile(images[name], masks[name]) for name in images]
