"""Weights & Biases: a run's numbers, mistakes, data and models on a dashboard."""
