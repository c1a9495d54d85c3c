"""The reasons that are given for a layer's route are true, for every accumulator and mode."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integer.engine.test_engine import ISAS, single

from oaq_repro import _kernels
from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.integer.engine import Engine
from oaq_repro.integer.engine.sums import EXACT, MODES

SATURATES = {row["isa"]: row["saturates"] for row in _kernels.table()}
HUGE = _kernels.LARGEST_BIAS + 1
DEPTH = 64
# Weights of 32 outputs (rows of 64), codes up to 255: the sum of all products, and that of two.
SMALL = np.ones((32, DEPTH))  # both fit 16 bits
LONG = np.full((32, DEPTH), 60)  # only two fit
LOUD = np.full((32, DEPTH), -128)  # none does, nor where 128 is taken off the codes first
SPARSE = np.concatenate([np.full((32, 2), -128), np.full((32, 2), 127), np.zeros((32, DEPTH - 4))], axis=1)
BOTH = np.concatenate([SMALL[:16], LONG[:16]])
REACH, BIAS, PAIRS = (
    "an input could overflow whole sums", "biases are too large for 16-bit sums", "pairs could saturate"
)  # fmt: skip
PARTS, WIDE = "parts that no input can overflow", "32 bits at once"
FITS = "no input can overflow the whole sum"

# weights, bias, accumulator, mode, reason; {PAIRS} only where instructions saturate.
TABLE = [
    (SMALL, 0, "int16", "certified", FITS),
    (SMALL, 0, "int16", "fast", FITS),
    (SMALL, 0, "int16_lanes8", "fast", FITS),
    (SMALL, 0, "int14", "fast", f"its accumulator is int14; no register has 14 bits: {PARTS}, then wrapped"),
    (SMALL, 0, "int14", "certified", FITS),
    (SMALL, 0, "int32", "fast", FITS),
    (SMALL, HUGE, "int16", "certified", f"{BIAS}: {PARTS}"),
    (SMALL, HUGE, "int16", "fast", f"{BIAS}: {PARTS}"),
    (SMALL, HUGE, "int14", "fast", f"its accumulator is int14; no register has 14 bits: {PARTS}, then wrapped"),
    (SMALL, 0, "int16", "acc32", "mode acc32"),
    (SMALL, 0, "int16", "exact", "mode exact"),
    (LONG, 0, "int16", "certified", f"{REACH}: {PARTS}"),
    (LONG, 0, "int16", "fast", "its accumulator is int16"),
    (LONG, 0, "int14", "fast", f"its accumulator is int14; no register has 14 bits: {PARTS}, then wrapped"),
    (LONG, 0, "int18", "fast", f"its accumulator is int18; no register has 18 bits: {PARTS}, then wrapped"),
    (LONG, 0, "int24", "fast", f"{REACH}: {PARTS}"),
    (LONG, 0, "int32", "fast", f"{REACH}: {PARTS}"),
    (LONG, HUGE, "int16", "fast", f"its accumulator is int16; {BIAS}: {PARTS}, then wrapped"),
    (LONG, HUGE, "int16", "certified", f"{REACH} or {BIAS}: {PARTS}"),
    (LONG, 0, "int16", "acc32", "mode acc32"),
    (LONG, 0, "int16_lanes8", "fast", "int16_lanes8 can overflow, and no kernel has it"),
    (LOUD, 0, "int16", "acc32", f"mode acc32; pairs that could overflow: {WIDE}"),
    (LOUD, 0, "int16", "exact", "mode exact"),
    (LOUD, 0, "int14", "fast", f"its accumulator is int14; no register has 14 bits: {WIDE}, then wrapped"),
    (BOTH, 0, "int16", "certified", f"where {REACH}: {PARTS}"),
    (BOTH, 0, "int16", "fast", "its accumulator is int16"),
]


def route(weight, bias, accumulator, mode, isa, q_max=255, zero_point=0):
    policy = Accumulator.parse(accumulator)
    graph = single(np.asarray(weight)[:, :, None, None], q_max, zero_point, policy, bias, multiplier=2.0**-14)
    return Engine(graph, (len(weight[0]), 2, 2), mode=mode, isa=isa, trace=True).routes[0]  # traced: channels stay


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("weight, bias, accumulator, mode, reason", TABLE)
def test_reasons(weight, bias, accumulator, mode, reason, isa):
    assert route(weight, bias, accumulator, mode, isa).reason == reason


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("accumulator, mode", [("int16", "fast"), ("int16", "certified"), ("int32", "fast")])
@pytest.mark.parametrize("weight", [LOUD, SPARSE])
def test_reasons_where_pairs_saturate(weight, accumulator, mode, isa):
    reason = route(weight, 0, accumulator, mode, isa).reason
    if mode == "fast" and accumulator == "int16":
        saturated = f"its accumulator is int16; {PAIRS}: one product each"
        assert reason == (saturated if SATURATES[isa] else "its accumulator is int16")
    else:
        assert reason == (f"{REACH} or {PAIRS}: {WIDE}" if SATURATES[isa] else f"{REACH}: {WIDE}")


@pytest.mark.parametrize("isa", ISAS)
def test_reasons_of_depthwise_layers(isa):
    weight = np.full((40, 1, 3, 3), 60)
    for accumulator, mode, reason in (
        ("int16", "fast", "its accumulator is int16"),
        ("int14", "fast", f"its accumulator is int14; no register has 14 bits: {PARTS}, then wrapped"),
        ("int16", "certified", f"{REACH}: {PARTS}"),
        ("int16", "acc32", "mode acc32"),
    ):
        graph = single(weight, 255, accumulator=Accumulator.parse(accumulator), groups=40, padding=(1, 1))
        found = Engine(graph, (40, 4, 4), mode=mode, isa=isa).routes[0]
        assert (found.kind, found.reason) == ("depthwise", reason)


POLICIES = [*NAMED.values(), *(Accumulator(bits=bits) for bits in (8, 12, 14, 15, 17, 20, 31))]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), seed=st.integers(0, 10**6), isa=st.sampled_from(ISAS), mode=st.sampled_from(MODES))
def test_reasons_are_true(data, seed, isa, mode):
    """Every phrase against sums over all products and all neighbours, without the certificates."""
    rng = np.random.default_rng(seed)
    policy = data.draw(st.sampled_from(POLICIES))
    largest = data.draw(st.sampled_from([1, 5, 30, 64, 65, 127]))
    q_max, zero_point = data.draw(st.sampled_from([(255, 0), (255, 100), (127, 3), (40, 0)]))
    depth = 2 * data.draw(st.integers(1, 40))
    weight = rng.integers(-largest, largest + 1, (int(rng.integers(1, 40)), depth))
    bias = data.draw(st.sampled_from([0, HUGE]))
    found = route(weight, bias, policy, mode, isa, q_max, zero_point)

    products = np.stack([weight * code for code in (-zero_point, q_max - zero_point)])
    highest, lowest = products.max(0).sum(1).max(), products.min(0).sum(1).min()
    raw = np.maximum(weight * q_max, 0), np.minimum(weight * q_max, 0)
    neighbours = [part.reshape(len(weight), -1, 2).sum(2) for part in raw]
    pairs = bool((neighbours[0] > 32767).any() or (neighbours[1] < -32768).any())
    reach = not -32768 <= lowest <= highest <= 32767
    phrases = {
        FITS: not reach,
        REACH: reach,
        PAIRS: pairs and SATURATES[isa],
        BIAS: bias == HUGE,
        "no register has": policy.bits not in (16, 32) and mode == "fast" and found.claim == "empirical",
        f"mode {mode}": mode in ("acc32", "exact"),
        "pairs that could overflow": pairs or q_max > 127,  # signed codes have other pairs
        "its accumulator is": mode == "fast" and (lowest < policy.minimum or highest > policy.maximum),
        "can overflow, and no kernel has it": mode == "fast",
        WIDE: EXACT in found.sums,
        PARTS: any(route.sums == "folded" for route in found.sums),
    }
    said = {phrase for phrase in phrases if phrase in found.reason}
    assert said and all(phrases[phrase] for phrase in said), found.reason
    if found.kind == "dense" and mode in ("fast", "certified"):
        assert (WIDE in said) == (EXACT in found.sums)
        assert (PARTS in said) == any(route.sums == "folded" for route in found.sums)
