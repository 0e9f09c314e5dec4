"""Errors of a restore."""

from formats.errors import PredumpError


class RestoreFailed(PredumpError):
    """A process could not be made as it was; what had been made of it is gone again."""

    exit_code = 1
