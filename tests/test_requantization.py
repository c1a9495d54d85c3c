import pytest

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.requantization import REQUANTIZATIONS, layer_requantization


@pytest.mark.parametrize("asked", REQUANTIZATIONS)
def test_a_layer_takes_what_is_asked_for(asked):
    for accumulator in (NAMED["int16"], NAMED["int16_block"], Accumulator(bits=12)):
        assert layer_requantization(asked, accumulator) == (asked, "asked for")


def test_fixed16_is_for_16_bits():
    taken, reason = layer_requantization("fixed16", NAMED["int32"])
    assert taken == "dyadic" and "int32" in reason
    assert layer_requantization("float32", NAMED["int32"])[0] == "float32"
