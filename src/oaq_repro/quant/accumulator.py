"""The path by which configurations of runs name the accumulator, and so a part of what identifies a run."""

from oaq_repro.accumulator import Accumulator

__all__ = ["Accumulator"]
