"""Loggers, callbacks and the run folder."""
