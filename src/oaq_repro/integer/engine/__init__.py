"""The engine: an integer graph on kernels with 16-bit accumulators (csrc/)."""

from oaq_repro.integer.engine.engine import Engine

__all__ = ["Engine"]
