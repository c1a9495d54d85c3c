import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from oaq_repro.accumulator import NAMED, Accumulator
from oaq_repro.errors import InputError

CONFIGURATIONS = Path(__file__).parents[1] / "conf" / "accumulator"


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
    code = "import sys; sys.modules['torch'] = None; import oaq_repro.accumulator"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 9, 40])
@pytest.mark.parametrize("policy", [*NAMED.values(), Accumulator(lanes=3), Accumulator(block=7), Accumulator(block=1)])
def test_every_product_joins_one_partial_sum(policy, depth):
    """Lanes take products in turns, blocks those side by side; integers and arrays alike."""
    parts = [policy.part(k) for k in range(depth)]
    assert policy.part(np.arange(depth)).tolist() == parts
    assert sorted(set(parts)) == list(range(max(parts) + 1))
    for part in range(max(parts) + 1):
        taken = [k for k in range(depth) if parts[k] == part]
        if policy.block is None:
            assert taken == list(range(part, depth, policy.lanes))
        else:
            assert taken == list(range(part * policy.block, min((part + 1) * policy.block, depth)))


@pytest.mark.parametrize("depth", [1, 5, 8, 100])
@pytest.mark.parametrize("policy", [*NAMED.values(), Accumulator(bits=12, lanes=64), Accumulator(block=1 << 40)])
def test_no_more_lanes_or_longer_blocks_than_products(policy, depth):
    fitted = policy.within(depth)
    assert fitted.lanes <= max(depth, 1) and (fitted.block is None or fitted.block <= depth)
    assert (fitted.bits, fitted.overflow) == (policy.bits, policy.overflow)
    assert [fitted.part(k) for k in range(depth)] == [policy.part(k) for k in range(depth)]


def test_configurations_are_the_named_policies():
    found = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGURATIONS.glob("*.yaml")}
    assert found == {name: policy.to_dict() for name, policy in NAMED.items()}
