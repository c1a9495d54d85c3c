"""Integer graphs, their execution on narrow accumulators and certificates about overflow.

Needs no torch: NumPy and the compiled module, and onnx, pydantic and rich for what reads, audits and prints models.
"""
