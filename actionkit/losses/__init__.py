"""Losses over scores."""
