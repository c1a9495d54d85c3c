"""Any classifier of timm, by timm's own name."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import timm

from oaq_repro.errors import InputError
from oaq_repro.fields import NO_SCIENCE, Checkpoint, Finite, Positive, Text
from oaq_repro.models.backbones import with_weights
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint
from oaq_repro.models.network import Network, check_input_shape

SHOWN = 5  # names like the one that is not known


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    arch: Text,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
    mean: Annotated[Sequence[Finite] | None, NO_SCIENCE] = None,
    std: Annotated[Sequence[Positive] | None, NO_SCIENCE] = None,
) -> Network:
    """A classifier: image float32 [N, C, H, W] -> logits float32 [N, num_classes].

    `arch`: a name of `timm.list_models()`; `options` are further arguments of `timm.create_model` (`pad_type: same`).
    Weights: timm's (`pretrained`), a file's (`checkpoint`; `checkpoint_key`: which of several state dicts in it), or
    those of a classifier of other classes (`backbone_checkpoint`). `mean` and `std`, of the images for which there are
    weights, are for the data's configuration to take; nothing else reads them.
    Raises InputError for bad fields and files. Whether a network can be quantized is seen when it is converted.
    """
    if not timm.is_model(arch):
        close = difflib.get_close_matches(arch, timm.list_models(), SHOWN)
        raise InputError(
            f"model.arch: found {arch!r}, expected a name of timm" + (f": {', '.join(close)}" if close else "")
        )
    check_input_shape(input_shape, 32, arch)
    fields: dict[str, Any] = {**(options or {}), "num_classes": num_classes, "in_chans": int(input_shape[0])}
    try:
        model = with_weights(arch, **fields) if pretrained else timm.create_model(arch, **fields)
    except (TypeError, ValueError, KeyError, AssertionError) as error:  # what timm makes of options that do not fit
        raise InputError(
            f"model.options: found {dict(options or {})}, which timm's {arch} does not take ({error})"
        ) from error
    load_backbone(model, backbone_checkpoint)
    load_checkpoint(model, checkpoint, checkpoint_key)
    return Network(dense=model)
