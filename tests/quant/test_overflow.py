import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.reference import conv2d

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.quant.numerics import pad
from oaq_repro.quant.overflow import Geometry, OverflowMeter, partial_convolutions, simulate

accumulators = st.one_of(
    st.sampled_from(list(NAMED.values())),
    st.builds(Accumulator, bits=st.integers(8, 20), overflow=st.sampled_from(["wrap", "saturate"])),
    st.builds(Accumulator, bits=st.integers(8, 20), lanes=st.integers(2, 9)),
    st.builds(
        Accumulator, bits=st.integers(8, 20), overflow=st.sampled_from(["wrap", "saturate"]), block=st.integers(1, 9)
    ),
)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    geometry = Geometry(
        stride=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        padding=draw(st.tuples(*[st.integers(0, 1)] * 4)),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extreme = draw(st.booleans())  # only the largest codes and weights: sums far outside
    codes = rng.choice([0, 255], (2, channels, 5, 5)) if extreme else rng.integers(0, 256, (2, channels, 5, 5))
    shape = (outputs, channels // groups, *kernel)
    weight = rng.choice([-128, 127], shape) if extreme else rng.integers(-128, 128, shape)
    return codes, draw(st.integers(0, 255)), weight, geometry


@settings(max_examples=60, deadline=None)
@given(convolutions(), accumulators)
def test_simulation_equals_the_reference(convolution, accumulator):
    codes, zero_point, weight, g = convolution
    acc, happened, _, _ = conv2d(
        codes.transpose(0, 2, 3, 1),
        weight.transpose(0, 2, 3, 1),
        zero_point,
        *(g.stride, g.padding, g.dilation, g.groups),
        accumulator,
    )
    expected, events = acc.transpose(0, 3, 1, 2), happened.transpose(0, 3, 1, 2).astype(bool)
    found = simulate(
        torch.from_numpy(codes).float(),
        torch.tensor(float(zero_point)),
        torch.from_numpy(weight).float(),
        g,
        accumulator,
    )
    assert np.array_equal(found.value.numpy(), expected)
    assert np.array_equal(found.overflowed.numpy(), events)
    assert (found.peak > 1) == events.any()


@settings(max_examples=40, deadline=None)
@given(convolutions(), st.integers(9, 20))
def test_meter_counts_a_whole_sum_without_a_second_convolution(convolution, bits):
    codes, zero_point, weight, g = convolution
    accumulator = Accumulator(bits=bits)
    x, w, z = torch.from_numpy(codes).float(), torch.from_numpy(weight).float(), torch.tensor(float(zero_point))
    exact = F.conv2d(pad(x - z, g.padding), w, None, g.stride, 0, g.dilation, g.groups)
    meter = OverflowMeter()
    meter.update(exact, x, z, w, g, accumulator)
    slow = simulate(x, z, w, g, accumulator)
    assert torch.equal(meter.per_image(), slow.overflowed.flatten(1).sum(1))
    assert meter.outputs == exact.numel()
    assert meter.peak == pytest.approx(slow.peak)
    assert torch.equal(meter.channel_events, slow.overflowed.sum((0, 2, 3)))


@settings(max_examples=40, deadline=None)
@given(convolutions(), accumulators)
def test_peaks_and_events_of_every_channel_are_those_of_a_plain_loop(convolution, accumulator):
    codes, zero_point, weight, g = convolution
    x, w, z = torch.from_numpy(codes).float(), torch.from_numpy(weight).float(), torch.tensor(float(zero_point))
    exact = F.conv2d(pad(x - z, g.padding), w, None, g.stride, 0, g.dilation, g.groups)
    meter = OverflowMeter()
    for image, sums in zip(x.split(1), exact.split(1), strict=True):
        meter.update(sums, image, z, w, g, accumulator)
    partial = [p.numpy() for p in partial_convolutions(x, z, w, g, accumulator)]
    low, high = -(2 ** (accumulator.bits - 1)), 2 ** (accumulator.bits - 1) - 1
    for channel in range(len(weight)):
        peak, events = -np.inf, 0
        for n, i, j in np.ndindex(partial[0][:, channel].shape):
            found = [float(p[n, channel, i, j]) for p in partial]
            peak = max([peak, *(v / high for v in found), *(v / low for v in found)])
            events += any(not low <= v <= high for v in found)
        # a split sum starts from zero; float32 rounds the quotient of a whole one
        split = accumulator.splits or accumulator.overflow == "saturate"
        assert float(meter.peaks[channel]) == pytest.approx(max(peak, 0.0) if split else peak, rel=1e-6)
        assert int(meter.channel_events[channel]) == events


@pytest.mark.parametrize("total, overflows", [(32767, False), (32768, True), (-32768, False), (-32769, True)])
def test_the_bound_and_one_beyond(total, overflows):
    # codes of 1, weights that add up to `total`, one channel per weight
    weights = [127 if total > 0 else -128] * (abs(total) // (127 if total > 0 else 128))
    rest = total - sum(weights)
    weights.append(rest)
    weight = torch.tensor(weights, dtype=torch.float32).reshape(1, -1, 1, 1)
    codes = torch.ones(1, len(weights), 1, 1)
    found = simulate(codes, torch.tensor(0.0), weight, Geometry(), NAMED["int16"])
    assert bool(found.overflowed.item()) is overflows
    wrapped = total - 65536 if total > 32767 else total + 65536 if total < -32768 else total
    assert found.value.item() == wrapped


def test_meter_adds_batches():
    meter = OverflowMeter()
    weight, z = torch.full((1, 2, 1, 1), 127.0), torch.tensor(0.0)
    for value in (255.0, 1.0):
        x = torch.full((3, 2, 2, 2), value)
        meter.update(F.conv2d(x, weight), x, z, weight, Geometry(), NAMED["int16"])
    assert meter.total() == 12
    assert meter.per_image().tolist() == [4, 4, 4, 0, 0, 0]
    assert meter.outputs == 24
