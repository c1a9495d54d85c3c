"""Training: one stage with Lightning, the float parent and the fine-tuning that runs share, loggers, checkpoints."""
