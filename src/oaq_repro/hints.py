"""Hints of the libraries that are not about the user's data or settings: named once, and not shown."""

import logging
import warnings

HINTS = (
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*pin_memory.*",
    ".*This DataLoader will create .* worker processes.*",
    ".*Checkpoint directory.*exists.*",
    ".*The number of training batches.*",
    ".*LeafSpec.*",
    ".*isinstance.treespec.*",
    ".*__array__ implementation doesn't accept a copy keyword.*",  # pycocotools and numpy 2
    "Image size .* exceeds limit.*",  # an InputError of ours follows
    "Corrupt EXIF data.*",
)
"""Patterns of their first words, as `warnings.filterwarnings` takes them."""


def quiet() -> None:
    """Hide the hints; warnings about the user's data stay."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in HINTS:
        warnings.filterwarnings("ignore", message=message)
