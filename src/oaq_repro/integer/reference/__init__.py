"""Reference execution of an integer graph, in any accumulator, with overflow counted."""

from oaq_repro.integer.reference.reference import Execution, Reference

__all__ = ["Execution", "Reference"]
