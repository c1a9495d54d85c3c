"""Integer graphs, their execution on narrow accumulators and certificates about overflow. Needs NumPy only."""
