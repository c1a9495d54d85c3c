"""Settings of a run: composing them, one schema of all of them, and what identifies a run."""
