"""TinyImageNet (Stanford CS231n): 200 classes of ImageNet at 64 pixels, in folders as they are distributed."""

from oaq_repro.data import transforms
from oaq_repro.data.base import Transform
from oaq_repro.data.classification import ClassificationData, FolderSamples, is_image, read_class_folders
from oaq_repro.data.fields import require_unique, shown, unexpected
from oaq_repro.data.reading import names_in, read_lines, require_files, require_folder

ANNOTATIONS = "val_annotations.txt"


class TinyImageNet(ClassificationData):
    """`root`/train/<class>/images/<image> and `root`/val/images/<image> with the classes in val/val_annotations.txt.

    The images of val are held out, 10,000 of the whole; those of test have no labels.
    """

    benchmark = "tiny_imagenet"

    def read(self) -> tuple[FolderSamples, FolderSamples]:
        """List the images of train and val."""
        root = require_folder(self.root, "TinyImageNet with its folders train and val")
        names, train = read_class_folders(root / "train")
        position = {name: index for index, name in enumerate(names)}
        path, folder = root / "val" / ANNOTATIONS, root / "val" / "images"
        labels = {}
        lines = [line.split() for line in read_lines(path, "a name, a class and a box per image")]
        require_unique(path, [fields[0] for fields in lines], "every image once")
        for fields in lines:
            if len(fields) < 2 or fields[1] not in position:
                raise unexpected(path, shown(" ".join(fields)), f"a name and one of the {len(names)} classes of train")
            labels[fields[0]] = position[fields[1]]
        images = [name for name in names_in(folder, "the held-out images") if is_image(name)]
        require_files(folder, list(labels), images, f"the images that {ANNOTATIONS} names")
        val = [(str(folder / name), label) for name, label in labels.items()]
        self.counts = {"train: classes": len(names), "train: images": len(train), "val: images": len(val)}
        return FolderSamples(names, train), FolderSamples(names, val)

    def transform(self, train: bool) -> Transform:
        """Pad by an eighth of the side (8 of 64), crop, flip."""
        return transforms.small_images(self.size, train, self.size[0] // 8, 0.5, self.mean, self.std)
