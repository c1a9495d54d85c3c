"""Pascal VOC: detection and segmentation from VOCdevkit, or from any folder of that layout."""

from pathlib import Path
from typing import Any

from oaq_repro.data.base import DataModule
from oaq_repro.data.detection import Annotated, DetectionData, DetectionSamples, say_repairs
from oaq_repro.data.fields import Names, Year, unexpected, unique_names
from oaq_repro.data.notes import Repairs
from oaq_repro.data.reading import require_folder
from oaq_repro.data.segmentation import MaskFile, MaskFileSamples, SegmentationData
from oaq_repro.data.voc_files import VocSplit, devkit_folder, is_voc_folder, object_names, read_annotation
from oaq_repro.fields import Text

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
YEARS = {"07": ("VOC2007",), "12": ("VOC2012",), "07+12": ("VOC2007", "VOC2012")}
Files = list[tuple[str, Path, Path]]


class VocFiles(DataModule):
    """What both tasks share: which lists are read, and the files that they name."""

    kind: str  # the folder of ImageSets

    @property
    def benchmark(self) -> str | None:  # type: ignore[override]
        """VOC itself, not a folder of its layout."""
        return None if self.root is not None and is_voc_folder(self.root) else "voc"

    def files(self, split: VocSplit, annotations: str, suffix: str) -> Files:
        """Return name, image and annotation of all images of a split, and count them."""
        files = split.files(self.kind, annotations, suffix)
        self.counts[f"{split.list_of(self.kind).relative_to(split.folder.parent)}: images"] = len(files)
        return files


class VocDetection(VocFiles, DetectionData):
    """VOC detection as the field does it, or a folder of VOC's layout.

    `year` 07, 12 or 07+12 names the trainval sets to train on; held out is the test set of 2007 (the labels of
    2012's are not public). Where `root` itself has VOC's layout, `year` has no meaning: it trains on
    ImageSets/Main/train and holds out val, with the classes found there unless `classes` fixes them.
    """

    kind = "Main"

    def __init__(self, *, year: Year = "07+12", classes: Names | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.year, self.fixed_classes = year, None if classes is None else unique_names(classes)

    def sources(self) -> tuple[list[VocSplit], list[VocSplit]]:
        """Return the splits to train on and to hold out."""
        root = require_folder(self.root)
        if is_voc_folder(root):
            return [VocSplit(root, "train")], [VocSplit(root, "val")]
        train = [VocSplit(devkit_folder(root, name), "trainval") for name in YEARS[self.year]]
        return train, [VocSplit(devkit_folder(root, "VOC2007"), "test")]

    def read(self) -> tuple[DetectionSamples, DetectionSamples]:
        """Read all annotations of both splits."""
        train, val = ([(split, self.files(split, "Annotations", ".xml")) for split in s] for s in self.sources())
        classes = self.fixed_classes
        if classes is None:
            classes = VOC_CLASSES if self.benchmark else _classes_in([files for _, files in (*train, *val)])
        return self.split(self.root, classes, self._records(train, classes), self._records(val, classes))

    def for_task(self) -> dict[str, Any]:
        """Measured by the devkit's rules, too."""
        return {**super().for_task(), "voc": True}

    def _records(self, splits: list[tuple[VocSplit, Files]], classes: tuple[str, ...]) -> list[Annotated]:
        labels = {name: position for position, name in enumerate(classes, start=1)}
        records: list[Annotated] = []
        for split, files in splits:
            repairs = Repairs(split.list_of(self.kind))
            first = len(records)
            for number, (_, image, annotation) in enumerate(files, start=first):
                records.append(read_annotation(annotation, image, number, labels, repairs))
            say_repairs(repairs, records[first:])
        return records


def _classes_in(splits: list[Files]) -> tuple[str, ...]:
    """Return the names of all objects in the annotations of these splits, sorted."""
    annotations = [annotation for files in splits for _, _, annotation in files]
    names = set().union(*(object_names(path) for path in annotations))
    if not names:
        raise unexpected(annotations[0].parent, "no named object", "at least one class")
    return tuple(sorted(names))


class VocSegmentation(VocFiles, SegmentationData):
    """VOC segmentation: 21 classes with background, masks with 255 as void.

    From VOCdevkit it trains on ImageSets/Segmentation/<train_set> of `year` and holds out <val_set>. DeepLab's protocol
    with the extra annotations of SBD is `train_set: trainaug, masks: SegmentationClassAug`, where the user has put them
    there. A folder of VOC's layout is read in the same way; `classes` (with the background) replaces VOC's.
    """

    kind = "Segmentation"

    def __init__(
        self,
        *,
        year: Year = "12",
        train_set: Text = "train",
        val_set: Text = "val",
        masks: Text = "SegmentationClass",
        classes: Names | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.year, self.train_set, self.val_set, self.masks = year, train_set, val_set, masks
        self.class_names = ("background", *VOC_CLASSES) if classes is None else unique_names(classes)

    def sources(self) -> tuple[list[VocSplit], list[VocSplit]]:
        """Return the splits to train on and to hold out."""
        root = require_folder(self.root)
        folders = [root] if is_voc_folder(root) else [devkit_folder(root, name) for name in YEARS[self.year]]
        return [VocSplit(folder, self.train_set) for folder in folders], [
            VocSplit(folder, self.val_set) for folder in folders
        ]

    def read(self) -> tuple[MaskFileSamples, MaskFileSamples]:
        """List images and masks of both splits."""
        train, val = (MaskFileSamples(self.class_names, self._files(splits)) for splits in self.sources())
        return train, val

    def _files(self, splits: list[VocSplit]) -> list[MaskFile]:
        named = (self.files(split, self.masks, ".png") for split in splits)
        return [MaskFile(image, mask) for files in named for _, image, mask in files]
