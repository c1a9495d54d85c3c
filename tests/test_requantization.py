import pytest

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.requantization import fits_fixed16


@pytest.mark.parametrize("accumulator", [NAMED["int16"], NAMED["int16_block"], NAMED["int16_lanes8"], Accumulator(12)])
def test_fixed16_is_for_16_bits_and_less(accumulator):
    assert fits_fixed16(accumulator)
    assert not fits_fixed16(accumulator.with_bits(17)) and not fits_fixed16(NAMED["int32"])
