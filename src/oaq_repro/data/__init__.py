"""Data sets as LightningDataModules: embedded real digits, and readers for the public benchmarks."""
