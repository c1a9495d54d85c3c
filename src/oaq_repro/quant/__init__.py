"""Quantizer numerics: pure functions on tensors, then thin modules. Knows no Lightning, no Hydra, no task."""
