"""Errors that end a run with a sentence instead of a traceback."""


class RunError(RuntimeError):
    """A run cannot go on; the message says why and what to do."""

    exit_code = 1


class NoRoomError(RunError):
    """A disk is full, or cannot be written."""

    exit_code = 3


class TooManyBadClipsError(RunError):
    """More clips cannot be read than the recipe's `data.max_bad` allows."""

    exit_code = 4


class NoRunError(RunError):
    """What was given as a run, or as its checkpoint, is none."""

    exit_code = 2
