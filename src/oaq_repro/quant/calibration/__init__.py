"""Passes over images before and after training: ranges, settling of range mapping factors, bias correction."""
