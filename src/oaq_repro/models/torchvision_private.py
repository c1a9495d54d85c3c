"""What torchvision keeps private of its MobileNetV3 detector and segmenter; it may move without notice.

`extractor(features, trainable_stages, norm_layer)`: the classifier's features as those of a detector, in six levels.
`normal_init(module)`: weights of convolutions as SSDLite starts them. `segmenter(features, classes)`: LR-ASPP on them.
"""

from torchvision.models.detection.ssdlite import _mobilenet_extractor as extractor
from torchvision.models.detection.ssdlite import _normal_init as normal_init
from torchvision.models.segmentation.lraspp import _lraspp_mobilenetv3 as segmenter

__all__ = ["extractor", "normal_init", "segmenter"]
