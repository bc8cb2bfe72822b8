"""Tasks: what a training step is."""
