"""Errors of a restore."""

from formats.errors import PredumpError


class RestoreFailed(PredumpError):
    """A process could not be made as it was; what had been made of it is gone again."""

    exit_code = 1


class CannotRestore(PredumpError):
    """Something that a restore needs is not there; nothing was made."""

    exit_code = 1


class NotTrusted(PredumpError):
    """The image may have been written by somebody else: to restore it would be to run what they want."""

    exit_code = 11
