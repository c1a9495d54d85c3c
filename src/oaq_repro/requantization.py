"""Requantization: how sums become codes. A value beside the accumulator that training, engine, files and records share.

`y` is a sum with its bias, int32, and `r = s_in * s_weight / s_out` the ratio of the scales:

- float32: `round_half_even(float32(y) * float32(r))`, as ONNX has it; the default;
- dyadic: `(y * M + 2^(s-1)) >> s`, M an integer of 31 bits with `M / 2^s` nearest to r: integers alone, as HAWQ-V3
  (Yao et al., ICML 2021);
- fixed16: `(sat16(y) * m + 2^14) >> 15`, m an integer below 2^15 with r = m / 2^15: what the instructions `vpmulhrsw`
  and `sqrdmulh` compute, so that nothing leaves 16 bits. Scales are snapped in training so that r is that fraction.

Both integer forms round half up. `fixed_point.py` derives M, s and m from scales; each operator of the integer graph
says at its class what they mean for it. Our choice of names and of what operators other than layers do.

This file imports neither torch nor NumPy: settings and the integer engine read it too.
"""

from typing import Literal, get_args

from oaq_repro.accumulator import Accumulator

Requantization = Literal["float32", "dyadic", "fixed16"]
REQUANTIZATIONS: tuple[Requantization, ...] = get_args(Requantization)

FIXED16_BITS = 16
"""Of a sum that fixed16 reads, and of the register that it is added up in."""


def fits_fixed16(accumulator: Accumulator) -> bool:
    """Whether a layer with this accumulator can take fixed16."""
    return accumulator.bits <= FIXED16_BITS
