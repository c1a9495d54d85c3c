"""The parts of a record of precision per frame (`methods.videoiq`)."""

from typing import Literal

from pydantic import Field

from oaq_repro.results.measures import Count, Fraction, Metric, NonNegative, Section, Stage
from oaq_repro.results.sections import Cost, Layer, Overflow


class WidthGraph(Section):
    """One of the networks that compute frames, which differ in bits. Its images are frames."""

    bits: Count
    metrics: dict[Stage, dict[Metric, Fraction]] = Field(
        description="all frames of the held-out clips at this width; soft: the float network of stage 1 at this width"
    )
    overflow: Overflow
    layers: list[Layer]
    cost: Cost
    latency_ms: dict[str, NonNegative] = Field(description="as the record's")

    @property
    def certified(self) -> int:
        """Number of layers where overflow is impossible."""
        return sum(layer.certified for layer in self.layers)


Choice = Literal["policy", "uniform", "shuffled", "skip_only", "line", "oracle"]


class FrameChoice(Section):
    """How frames are computed, by a policy or a control, and what that gives on held-out clips, on integers.

    policy: each frame as the policy chose. uniform: all frames at one width. shuffled: the policy's choices in random
    places, the mean over several orders. skip_only: the policy's skips, all other frames at one width. line: the
    straight line between the neighbouring points of skip_only, at the policy's cost. oracle: the best map from kinds of
    frames to choices that costs at most what the policy does, found on these held-out clips: a bound, no result.
    """

    choice: Choice
    bits: Count | None = Field(default=None, description="of uniform and skip_only")
    metrics: dict[Metric, Fraction]
    frames: dict[Count, NonNegative] = Field(description="parts of the frames by bits; 0: skipped; empty for the line")
    cost: NonNegative = Field(
        description="by the source's rule: min(b, 8)^2 / 64 a frame, float counts as 8 bits; 1: all frames at 8 bits"
    )
    macs: NonNegative = Field(description="products per frame, the policy's included")
    bops: NonNegative = Field(description="bit operations per frame (HAWQ-V3's), the float policy's at 32 bits")
    ms: NonNegative | None = Field(description="measured milliseconds per frame, engine and policy; null: not timed")


class FramePrecision(Section):
    """Precision per frame (`methods.videoiq`)."""

    clips: Count = Field(description="held-out ones")
    frames: Count = Field(description="of a clip")
    widths: list[WidthGraph]
    policy_macs: Count = Field(description="per frame")
    policy_ms: NonNegative | None = Field(description="per frame, on one thread; null where nothing was timed")
    choices: list[FrameChoice]
    by_kind: dict[str, dict[Count, Count]] = Field(
        description="frames by kind, where that is known, then by the bits that the policy chose; 0: skipped"
    )
