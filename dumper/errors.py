"""Errors about live processes; each class is an exit code of the contract."""

from formats.errors import PredumpError


class TargetGone(PredumpError):
    """The process has ended, or never was."""

    exit_code = 10


class PermissionDenied(PredumpError):
    """The caller may not do this to that process."""

    exit_code = 11


class KernelFeatureMissing(PredumpError):
    """This kernel cannot do it."""

    exit_code = 12


class TargetUntraceable(PredumpError):
    """The process cannot be traced or tracked, whoever asks."""

    exit_code = 13


class TargetBusy(PredumpError):
    """Another predump works on this target or checkpoint."""

    exit_code = 1


class TargetTracked(TargetBusy):
    """The process is tracked for the next round of a checkpoint, and can be tracked once only."""

    exit_code = 13


class HandoverFailed(PredumpError):
    """The process does not run elsewhere, and goes on here."""


class HandoverUndecided(PredumpError):
    """The process was to run elsewhere, and nobody here knows whether it does: it stays stopped."""

    exit_code = 14
