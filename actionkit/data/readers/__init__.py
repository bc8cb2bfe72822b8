"""Readers: decoders of video files."""
