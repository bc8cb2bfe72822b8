"""Backbones: frames or clips to maps."""
