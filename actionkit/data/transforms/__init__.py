"""Transforms of clips."""
