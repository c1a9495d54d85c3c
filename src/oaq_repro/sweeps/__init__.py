"""Sweeps: what happens around many runs, and whether all of them are finished."""
