"""The caller's terminal, which a group of processes that come back has meanwhile, as a shell lets a job have it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from formats.closing import Closing
from restorer.blocked import blocked

_TERMINAL = "/dev/tty"


class Foreground(Closing):
    """A context manager: the terminal is the caller's again when it ends. tcsetpgrp(3)."""

    def __init__(self) -> None:
        self._fd = -1

    def give(self, pid: int) -> bool:
        """To the group of a process of our session, if it is ours to give; whether that group is another than ours."""
        with suppress(OSError):  # no terminal, or no such process any more
            group = os.getpgid(pid)
            if os.getsid(pid) != os.getsid(0) or group == os.getpgrp():
                return False
            if self._fd < 0:
                self._fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            if os.tcgetpgrp(self._fd) == os.getpgrp():
                os.tcsetpgrp(self._fd, group)
            return True
        return False

    def take_back(self) -> None:
        """Whoever has it: those that had it have ended, or stand still."""
        if self._fd < 0:
            return
        with blocked({signal.SIGTTOU}), suppress(OSError):  # which is for those that do not have it
            os.tcsetpgrp(self._fd, os.getpgrp())

    def close(self) -> None:
        """Takes it back. May be called again."""
        self.take_back()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
