"""MobileNetV1, MobileNetV2 and ResNets as classifiers, at any width and for small images too."""

from oaq_repro.errors import InputError
from oaq_repro.fields import Checkpoint, Text, Width
from oaq_repro.models.backbones import Arch, Stem, create, drop_affine, shrink_stem
from oaq_repro.models.checkpoint import load_backbone, load_checkpoint
from oaq_repro.models.network import Network, check_input_shape


def build(
    num_classes: int,
    input_shape: tuple[int, int, int],
    arch: Arch = "mobilenetv1",
    width: Width = 1.0,
    stem: Stem = "imagenet",
    affine: bool = True,
    pretrained: bool = False,
    checkpoint: Checkpoint = None,
    backbone_checkpoint: Checkpoint = None,
    checkpoint_key: Text | None = None,
) -> Network:
    """A classifier: image float32 [N, C, H, W] -> logits float32 [N, num_classes].

    `stem="small"` keeps only as many stride-2 stages as let the image end at a map of about 4x4 (CIFAR, digits).
    affine: whether batch norm learns scale and shift; without, no published weights fit.
    `pretrained` starts from timm's ImageNet weights, `checkpoint` from a file of this very network,
    `backbone_checkpoint` from a file of a timm network with any number of classes. `checkpoint_key`: which of several
    state dicts in the file (`state_dict_ema`, ...); by default the plain weights.
    Raises InputError for bad fields and files.
    """
    check_input_shape(input_shape, 8 if stem == "small" else 32, arch)
    if not affine and (pretrained or backbone_checkpoint is not None):
        raise InputError("model.affine: found false with weights that have scale and shift, expected true")
    model = create(arch, width, num_classes, int(input_shape[0]), pretrained)
    if not affine:
        drop_affine(model)
    if stem == "small":
        shrink_stem(model, min(input_shape[1:]), pretrained)
    load_backbone(model, backbone_checkpoint)
    load_checkpoint(model, checkpoint, checkpoint_key)
    return Network(dense=model)
