"""Waiting for what came back, as a shell waits for a job."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FROM_KERNEL = 128  # SI_KERNEL of <asm-generic/siginfo.h>: of a terminal, which tells its whole foreground group


def wait_for(waited_for: int, root_pid: int) -> int:
    """The status of wait(2) with which our child `waited_for` ends; meanwhile signals that we get go to `root_pid`.

    Not so those of the terminal that `root_pid` gets as well, being in our process group. For the main thread.
    """
    expected = {*FORWARDED, signal.SIGCHLD}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, expected)
    try:
        while True:
            pid, status = os.waitpid(waited_for, os.WNOHANG)
            if pid:
                return status
            info = signal.sigwaitinfo(expected)
            if info.si_signo != signal.SIGCHLD and not (info.si_code == _FROM_KERNEL and _is_of_our_group(root_pid)):
                with suppress(ProcessLookupError):
                    os.kill(root_pid, info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _is_of_our_group(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == os.getpgrp()
    return False
