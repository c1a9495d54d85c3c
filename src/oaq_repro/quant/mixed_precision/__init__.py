"""Bits per layer: what they cost, how much a layer minds fewer, and which assignment is best."""
