"""Waiting for what came back, as a shell waits for a job."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from restorer.blocked import blocked
from restorer.foreground import Foreground

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_FROM_KERNEL = 128  # SI_KERNEL of <asm-generic/siginfo.h>: of a terminal, which tells its whole foreground group


def wait_for(waited_for: int, root_pid: int, foreground: Foreground | None = None) -> int:
    """The status of wait(2) with which our child `waited_for` ends; meanwhile signals that we get go to `root_pid`.

    Not so those of the terminal that `root_pid` gets as well, being in our process group. With `foreground` it is a job
    that has our terminal: when it stops (Ctrl-Z) so do we, and it goes on when we do. For the main thread.
    """
    expected = {*FORWARDED, signal.SIGCHLD, signal.SIGCONT}
    with blocked(expected):
        while True:
            pid, status = os.waitpid(waited_for, os.WNOHANG | (os.WUNTRACED if foreground else 0))
            if pid and not os.WIFSTOPPED(status):
                return status
            if pid and foreground:
                foreground.take_back()
                os.kill(os.getpid(), signal.SIGSTOP)
                _go_on(root_pid, foreground)
            info = signal.sigwaitinfo(expected)
            if info.si_signo == signal.SIGCONT:
                if foreground:
                    foreground.give(root_pid)
            elif info.si_signo != signal.SIGCHLD and not (info.si_code == _FROM_KERNEL and _is_of_our_group(root_pid)):
                with suppress(ProcessLookupError):
                    os.kill(root_pid, info.si_signo)


def _go_on(root_pid: int, foreground: Foreground) -> None:
    foreground.give(root_pid)
    with suppress(ProcessLookupError):
        os.killpg(os.getpgid(root_pid), signal.SIGCONT)


def _is_of_our_group(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == os.getpgrp()
    return False
