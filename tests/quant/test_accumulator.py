import subprocess
import sys

import pytest

from oaq_repro.errors import InputError
from oaq_repro.quant.accumulator import NAMED, Accumulator


def test_named_policies_are_those_of_the_design():
    assert NAMED["int32"] == Accumulator(bits=32)
    assert NAMED["int16"] == Accumulator(bits=16, overflow="wrap", lanes=1, block=None)
    assert NAMED["int16_lanes8"].lanes == 8
    assert NAMED["int16_block"].block
    assert NAMED["pair_saturating"] == Accumulator(bits=16, overflow="saturate", block=2)


def test_range():
    assert (Accumulator(bits=16).minimum, Accumulator(bits=16).maximum) == (-32768, 32767)


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"bits": 7}, "bits"),
        ({"bits": 33}, "bits"),
        ({"bits": 16.0}, "bits"),
        ({"bits": True}, "bits"),
        ({"overflow": "clip"}, "overflow"),
        ({"lanes": 0}, "lanes"),
        ({"lanes": True}, "lanes"),
        ({"block": True}, "block"),
        ({"block": 0}, "block"),
        ({"lanes": 8, "block": 4}, "lanes=8"),
    ],
)
def test_bad_fields_are_named(fields, field):
    with pytest.raises(InputError, match=field):
        Accumulator(**fields)


@pytest.mark.parametrize("policy", NAMED)
def test_names_and_fields_round_trip(policy):
    accumulator = NAMED[policy]
    assert accumulator.name == policy
    assert Accumulator.parse(policy) == accumulator
    assert Accumulator.parse(accumulator.to_dict()) == accumulator
    assert Accumulator.parse(accumulator) is accumulator


def test_other_widths_have_names():
    assert Accumulator.parse("int13") == Accumulator(bits=13)
    assert Accumulator(bits=13).name == "int13"
    assert Accumulator(bits=14, lanes=4).name == "int14_lanes4"
    assert Accumulator(bits=14, block=16).name == "int14_block16"
    assert Accumulator(bits=16, overflow="saturate", block=4).name == "int16_block4_saturate"


@pytest.mark.parametrize("value", ["int", "sixteen", {"bit": 16}])
def test_unknown_descriptions_are_errors(value):
    with pytest.raises(InputError, match="accumulator"):
        Accumulator.parse(value)


def test_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import oaq_repro.quant.accumulator"
    subprocess.run([sys.executable, "-c", code], check=True)
