"""What records of earlier versions mean, in today's settings: `scripts/rekey.py` rewrites them once.

Records of version 1 name import paths (`_target_`) and may leave fields out. A field that is absent has its default,
which is what the code did before there was the field, or else `identity.SILENCE` says what it did.
"""

import json
from collections.abc import Mapping
from typing import Any

from oaq_repro.errors import InputError
from oaq_repro.settings.forms import at, fields_beside, form_of_run
from oaq_repro.settings.identity import SILENCE
from oaq_repro.settings.schema import check

TARGETS = {
    "task": {
        "oaq_repro.tasks.classification.ClassificationTask": "classification",
        "oaq_repro.tasks.detection.DetectionTask": "detection",
        "oaq_repro.tasks.segmentation.SegmentationTask": "segmentation",
    },
    "data": {
        "oaq_repro.data.digits.Digits": "digits",
        "oaq_repro.data.cifar10.Cifar10": "cifar10",
        "oaq_repro.data.imagenet.ImageNet": "imagenet",
        "oaq_repro.data.voc.VocDetection": "voc_detection",
        "oaq_repro.data.voc.VocSegmentation": "voc_segmentation",
        "oaq_repro.data.coco.CocoDetection": "coco_detection",
        "oaq_repro.data.coco.CocoSegmentation": "coco_segmentation",
        "oaq_repro.data.camvid.CamVid": "camvid",
        "oaq_repro.data.scene_cache.build_scenes": "scenes",
    },
    "model": {
        "oaq_repro.models.classification.build": "classifier",
        "oaq_repro.models.ssd.build": "ssd",
        "oaq_repro.models.mmseg_deeplab.build": "deeplabv3",
    },
    "method": {
        "oaq_repro.methods.float32.Float32": "float32",
        "oaq_repro.methods.int8.Int8": "int8",
        "oaq_repro.methods.reduce_range.ReduceRange": "reduce_range",
        "oaq_repro.methods.pact.PACT": "pact",
        "oaq_repro.methods.lsq.LSQ": "lsq",
        "oaq_repro.methods.dsq.DSQ": "dsq",
        "oaq_repro.methods.rq.RQ": "rq",
        "oaq_repro.methods.wrapnet.WrapNet": "wrapnet",
        "oaq_repro.methods.oaq.OAQ": "oaq",
        "oaq_repro.methods.oaq_clamp.OAQClamp": "oaq_clamp",
        "oaq_repro.methods.oaq_certified.OAQCertified": "oaq_certified",
        "oaq_repro.methods.certified_scale.CertifiedScale": "certified_scale",
        "oaq_repro.methods.a2q.A2Q": "a2q",
        "oaq_repro.methods.a2q_plus.A2QPlus": "a2q_plus",
    },
}
"""The kinds of version 1, whose names were import paths. No kind is added here."""


def current(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record of any version as a run of today would have them; InputError where there are none."""
    settings = json.loads(json.dumps(config))
    for section, kinds in TARGETS.items():
        target = settings[section].get("_target_") if isinstance(settings.get(section), dict) else None
        if target is not None:
            if target not in kinds:
                raise InputError(f"{section}._target_: found {target}, expected a kind of {section} that is known")
            settings[section]["kind"] = kinds[target]
            if section == "task":
                settings[section].pop("name", None)
    if TARGETS["data"].get(at(settings, ("data", "_target_"))) == "scenes":
        settings["data"] = _scenes(settings["data"])
    plain = _without_underscores(settings)
    check(plain)
    _factors(plain)
    return check(explicit(plain))


def _factors(settings: dict[str, Any]) -> None:
    """Granularity, in records from before there was the choice: factors were those of tensors.

    Where no factor of its own moves the choice says nothing, and the default is as true. Certifying methods had factors
    per channel: `certified_scale` those only, `oaq_certified` beside those of tensors.
    """
    kind, quantization = settings["method"]["kind"], settings["quantization"]
    if "granularity" in quantization:
        return
    if kind == "oaq_certified":
        raise InputError(
            "method oaq_certified: found factors of two kinds, which no settings say now; make the run again"
        )
    if kind != "oaq" and settings["method"].get("settle") is None:
        quantization["granularity"] = "channel"


def explicit(settings: dict[str, Any]) -> dict[str, Any]:
    """Say in these settings what SILENCE knows of them, in sections that can have the field."""
    for path, value in SILENCE.items():
        *parents, name = where = path.split(".")
        place = at(settings, parents)
        if isinstance(place, dict) and name in fields_beside(form_of_run(settings), where):
            place.setdefault(name, value)
    return settings


def _scenes(data: Mapping[str, Any]) -> dict[str, Any]:
    """Scenes were one kind that held the fields of both tasks."""
    own = dict(data)
    task, detection, segmentation = (own.pop(name, {}) for name in ("task", "detection", "segmentation"))
    own |= detection if task == "detection" else segmentation
    return own | {"kind": f"scenes_{task}"}


def _without_underscores(value: Any) -> Any:
    """What Hydra's keys (`_target_`, `_partial_`, `_convert_`) said is said by kinds and by the code."""
    if isinstance(value, dict):
        return {key: _without_underscores(item) for key, item in value.items() if not key.startswith("_")}
    return [_without_underscores(item) for item in value] if isinstance(value, list) else value
