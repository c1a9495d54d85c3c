"""What a configuration may name: the kinds of tasks, data, models and methods, and where each is defined.

`kind: oaq` in a section is all that a configuration says; only what stands here is ever built from one. A kind keeps
its name when its module moves, so that no run changes its identity.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """target: `module:name` of a class or function whose arguments are the fields. task: which one it belongs to, None:
    any. common: the class whose arguments a function passes on as `**common`."""

    target: str
    task: str | None = None
    common: str | None = None


CLASSIFICATION, DETECTION, SEGMENTATION, VIDEO = "classification", "detection", "segmentation", "video"
NETWORK_OF = {VIDEO: CLASSIFICATION}
"""By a task the other one whose networks it takes: a clip's are networks of images."""

KINDS: dict[str, dict[str, Kind]] = {
    "task": {
        "classification": Kind("oaq_repro.tasks.classification:ClassificationTask", CLASSIFICATION),
        "detection": Kind("oaq_repro.tasks.detection:DetectionTask", DETECTION),
        "segmentation": Kind("oaq_repro.tasks.segmentation:SegmentationTask", SEGMENTATION),
        "video": Kind("oaq_repro.tasks.video:VideoTask", VIDEO),
    },
    "data": {
        "digits": Kind("oaq_repro.data.digits:Digits", CLASSIFICATION),
        "cifar10": Kind("oaq_repro.data.cifar10:Cifar10", CLASSIFICATION),
        "cifar100": Kind("oaq_repro.data.cifar10:Cifar100", CLASSIFICATION),
        "tiny_imagenet": Kind("oaq_repro.data.tiny_imagenet:TinyImageNet", CLASSIFICATION),
        "digits_table": Kind("oaq_repro.data.digit_table:DigitTable", CLASSIFICATION),
        "jets": Kind("oaq_repro.data.jets:Jets", CLASSIFICATION),
        "imagenet": Kind("oaq_repro.data.imagenet:ImageNet", CLASSIFICATION),
        "voc_detection": Kind("oaq_repro.data.voc:VocDetection", DETECTION),
        "coco_detection": Kind("oaq_repro.data.coco:CocoDetection", DETECTION),
        "scenes_detection": Kind(
            "oaq_repro.data.scene_cache:detection_scenes", DETECTION, "oaq_repro.data.detection:DetectionData"
        ),
        "voc_segmentation": Kind("oaq_repro.data.voc:VocSegmentation", SEGMENTATION),
        "coco_segmentation": Kind("oaq_repro.data.coco:CocoSegmentation", SEGMENTATION),
        "camvid": Kind("oaq_repro.data.camvid:CamVid", SEGMENTATION),
        "scenes_segmentation": Kind(
            "oaq_repro.data.scene_cache:segmentation_scenes",
            SEGMENTATION,
            "oaq_repro.data.segmentation:SegmentationData",
        ),
        "digit_clips": Kind("oaq_repro.data.digit_clips:DigitClips", VIDEO),
        "activitynet": Kind("oaq_repro.data.frame_folders:ActivityNet", VIDEO),
        "fcvid": Kind("oaq_repro.data.frame_folders:FCVID", VIDEO),
        "mini_kinetics": Kind("oaq_repro.data.frame_folders:MiniKinetics", VIDEO),
    },
    "model": {
        "classifier": Kind("oaq_repro.models.classification:build", CLASSIFICATION),
        "timm": Kind("oaq_repro.models.timm_classifier:build", CLASSIFICATION),
        "cnn": Kind("oaq_repro.models.cnn:build", CLASSIFICATION),
        "mlp": Kind("oaq_repro.models.mlp:build", CLASSIFICATION),
        "vgg": Kind("oaq_repro.models.vgg:build", CLASSIFICATION),
        "ssd": Kind("oaq_repro.models.ssd:build", DETECTION),
        "ssdlite": Kind("oaq_repro.models.ssdlite:build", DETECTION),
        "lraspp": Kind("oaq_repro.models.lraspp:build", SEGMENTATION),
        "deeplabv3": Kind("oaq_repro.models.mmseg_deeplab:build", SEGMENTATION),
    },
    "method": {
        "float32": Kind("oaq_repro.methods.float32:Float32"),
        "int8": Kind("oaq_repro.methods.int8:Int8"),
        "reduce_range": Kind("oaq_repro.methods.reduce_range:ReduceRange"),
        "pact": Kind("oaq_repro.methods.pact:PACT"),
        "lsq": Kind("oaq_repro.methods.lsq:LSQ"),
        "dsq": Kind("oaq_repro.methods.dsq:DSQ"),
        "rq": Kind("oaq_repro.methods.rq:RQ"),
        "wrapnet": Kind("oaq_repro.methods.wrapnet:WrapNet"),
        "oaq": Kind("oaq_repro.methods.oaq:OAQ"),
        "oaq_clamp": Kind("oaq_repro.methods.oaq_clamp:OAQClamp"),
        "oaq_certified": Kind("oaq_repro.methods.oaq_certified:OAQCertified"),
        "certified_scale": Kind("oaq_repro.methods.certified_scale:CertifiedScale"),
        "axe": Kind("oaq_repro.methods.axe:AXE"),
        "a2q": Kind("oaq_repro.methods.a2q:A2Q"),
        "a2q_plus": Kind("oaq_repro.methods.a2q_plus:A2QPlus"),
        "pmf": Kind("oaq_repro.methods.pmf:PMF"),
        "videoiq": Kind("oaq_repro.methods.videoiq:VideoIQ", VIDEO),
        "codebook": Kind("oaq_repro.methods.codebook:CodebookMethod"),
        "group_scale": Kind("oaq_repro.methods.group_scale:GroupScale"),
    },
}

GIVEN: dict[str, frozenset[str]] = {
    "model": frozenset({"num_classes", "input_shape"}),
    "task": frozenset({"network", "schedule", "classes", "voc", "parent"}),
}
"""Arguments that the run knows and no configuration does."""
