"""Quantized ONNX models: exported, imported, audited."""
