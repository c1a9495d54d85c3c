"""A transposed convolution as ordinary ones of stride 1. Shared by simulation, integer graph and audit.

Along an axis, tap k of a kernel adds input i to output `i * stride - before + k * dilation`. The outputs of one phase,
those at `first`, `first + stride`, ..., meet the same taps, and read neighbouring inputs with them: a convolution. Only
its products are the accumulator's; in the order of k taps are read from the last to the first, as inputs ascend.
"""

from math import gcd
from typing import NamedTuple

Pair = tuple[int, int]


class Phase(NamedTuple):
    """Outputs `first`, `first + stride`, ... along an axis, as a convolution of stride 1 of the input.

    taps: numbers of the kernel's taps in the order in which they are read; () where none meets these outputs.
    dilation: inputs from one tap to the next. padding: inputs that the first window reads before the input begins, and
    the last one after it has ended; a negative number of inputs is never read.
    """

    first: int
    taps: tuple[int, ...]
    dilation: int
    padding: Pair

    @property
    def kernel(self) -> int:
        """Taps of the convolution, of which one has no weight where there is none."""
        return max(len(self.taps), 1)


def meeting_taps(kernel: int, stride: int, dilation: int) -> dict[int, tuple[int, ...]]:
    """The taps that meet in outputs, in the order of k, by `(output + before) % stride`."""
    found: dict[int, tuple[int, ...]] = {}
    for tap in reversed(range(kernel)):
        place = tap * dilation % stride
        found[place] = (*found.get(place, ()), tap)
    return found


def phases(kernel: int, stride: int, dilation: int, padding: Pair, output_padding: int) -> tuple[Phase, ...]:
    """The phases of an axis, by `first`. Arguments as torch.nn.ConvTranspose2d has them; padding: before and after."""
    meeting, common = meeting_taps(kernel, stride, dilation), gcd(stride, dilation)
    found = []
    for first in range(stride):
        shift = first + padding[0]
        taps = meeting.get(shift % stride, ())
        # The last of count = (size + grown - first) / stride outputs, rounded up, is `more` beyond the last input.
        grown = dilation * (kernel - 1) + 1 + output_padding - sum(padding) - stride
        more = -((first - grown) // stride)
        begin, end = ((shift - taps[at] * dilation) // stride for at in (0, -1)) if taps else (0, 0)
        found.append(Phase(first, taps, dilation // common, (-begin, end + more)))
    return tuple(found)


def output_size(size: int, kernel: int, stride: int, dilation: int, padding: Pair, output_padding: int) -> int:
    """Outputs along an axis of `size` inputs."""
    return (size - 1) * stride - sum(padding) + dilation * (kernel - 1) + output_padding + 1
