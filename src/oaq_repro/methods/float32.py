"""The float parent itself: the row that every other row is compared with."""

from dataclasses import dataclass
from typing import ClassVar

from oaq_repro.methods.base import Method


@dataclass
class Float32(Method):
    """No quantization; the run ends after the float network is evaluated."""

    quantizes: ClassVar[bool] = False
