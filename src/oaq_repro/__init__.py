"""Overflow aware quantization: train, verify and measure 8-bit networks on 16-bit accumulators."""

__version__ = "0.1.0"
