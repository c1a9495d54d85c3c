"""Float network -> graph of quantized modules: tracing, what is written in many ways made one, the patterns."""
