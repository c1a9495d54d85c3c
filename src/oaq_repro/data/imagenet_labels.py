"""Labels of ImageNet's validation images where they lie in one folder, as distributed."""

import re
from collections.abc import Iterable
from pathlib import Path

from scipy.io import loadmat

from oaq_repro.data.fields import integer, require_unique, shown, unexpected
from oaq_repro.data.notes import say
from oaq_repro.data.reading import MissingError, read_lines, reading, require_files

WNID = re.compile(r"n\d{8}")
CLASSES = 1000
SYNSETS = "synset_words.txt"
LIST = "val.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
DEVKIT = ("", "data", "ILSVRC2012_devkit_t12/data")
NUMBERED = "ILSVRC2012_val_{:08d}.JPEG"
"""Image number n has the label in line n of the ground truth."""


def class_names(root: Path) -> tuple[str, ...]:
    """Return the WordNet ids in synset_words.txt, which stand in the order of the classes; () without that file."""
    path = root / SYNSETS
    if not path.exists():
        return ()
    names = tuple(line.split()[0] for line in read_lines(path, "a WordNet id and words per line"))
    if not all(WNID.fullmatch(name) for name in names) or names != tuple(sorted(set(names))):
        raise unexpected(path, "no WordNet ids, or not in their order", "one per line (n01440764), ascending")
    return names


def read_labels(root: Path, images: Iterable[str], known: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names, and the index of each of the `images` in val, from the list that is there.

    `known` are the class names where train or synset_words.txt tells them.
    """
    if (root / LIST).exists():
        path = root / LIST
        labels, classes = _by_index(path, known if len(known) == CLASSES else class_names(root) or known)
    else:
        path = _in_devkit(root, GROUND_TRUTH)
        labels, classes = _by_number(path, _in_devkit(root, META))
    names = known or classes
    images = list(images)
    require_files(root / "val", images, labels, f"only images that {path.name} has a label of")
    if len(images) < len(labels):
        say(path, f"names {len(labels)} images, {len(images)} of which are in {root / 'val'}")
    position = {name: index for index, name in enumerate(names)}
    odd = next((name for name in images if classes[labels[name]] not in position), None)
    if odd is not None:
        found = f"{odd} of class {classes[labels[odd]]}"
        raise unexpected(path, found, f"one of the {len(names)} classes in {root / 'train'}")
    return names, {name: position[classes[labels[name]]] for name in images}


def _by_index(path: Path, classes: tuple[str, ...]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Labels from lines "name index", in the order of `classes`; these are numbers where no file names them."""
    classes = classes or tuple(str(index) for index in range(CLASSES))
    names, labels = [], []
    for line in read_lines(path, 'a line "name index" per image'):
        name, text = line.rsplit(None, 1) if len(line.split()) > 1 else ("", line)
        label = integer(text, f"{path}: {shown(line)}")
        if not name or not 0 <= label < len(classes):
            known = f"a name and an index of {len(classes)} classes (those of train, or of all in {SYNSETS})"
            raise unexpected(path, shown(line), known)
        names.append(Path(name).name)
        labels.append(label)
    require_unique(path, names, "every image once")
    return dict(zip(names, labels, strict=True)), classes


def _by_number(path: Path, meta: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Labels from the devkit, whose numbers 1 to 1000 are not in the order of the WordNet ids: meta.mat has both."""
    with reading(meta, "meta.mat", "that of the ILSVRC 2012 devkit"):
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        by_number = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["ILSVRC2012_ID"]) <= CLASSES}
    classes = tuple(sorted(by_number.values()))
    position = {number: classes.index(name) for number, name in by_number.items()}
    labels = {}
    for line, text in enumerate(read_lines(path, "a number per image"), start=1):
        number = integer(text, f"{path}: line {line}")
        if number not in position:
            raise unexpected(f"{path}: line {line}", number, f"an ILSVRC2012_ID of {meta}")
        labels[NUMBERED.format(line)] = position[number]
    return labels, classes


def _in_devkit(root: Path, name: str) -> Path:
    for place in DEVKIT:
        if (root / place / name).exists():
            return root / place / name
    found = f"no such file, and no {LIST}, though {root / 'val'} has no class folders"
    text = f'{LIST} with a line "name index" (0 to 999) per image, or {GROUND_TRUTH} and {META} of the devkit'
    raise unexpected(root / name, found, text, MissingError)
