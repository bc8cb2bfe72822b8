"""Errors that end a run with a sentence instead of a traceback."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why and what to do."""
