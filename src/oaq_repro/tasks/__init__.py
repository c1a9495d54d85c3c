"""LightningModules: how each task is trained and measured."""
