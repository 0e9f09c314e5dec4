"""A program that was started in a terminal comes back in another one: restore --tty."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.harness import COMMAND_S, REPO, children, predump


class Screen:
    """What a terminal of ours shows, and who types into it."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self._fd = fd
        self._shown = b""
        self._has_ended = False

    def end(self) -> int:
        """The status with which it ends, which something makes it do."""
        self._has_ended = True
        return os.waitpid(self.pid, 0)[1]

    def close(self) -> None:
        """What has the terminal is hung up."""
        os.close(self._fd)
        if not self._has_ended:
            os.kill(self.pid, signal.SIGKILL)
            self.end()

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def wait_for(self, text: bytes) -> None:
        """Until it is shown, behind what was waited for before."""
        end = time.monotonic() + COMMAND_S
        while text not in self._shown:
            assert time.monotonic() < end, self._shown
            if select.select([self._fd], [], [], 0.1)[0]:
                self._shown += os.read(self._fd, 1 << 16)
        self._shown = self._shown.partition(text)[2]


@contextmanager
def in_terminal(*words: object) -> Iterator[Screen]:
    """A program in a terminal of its own; it has ended with the block."""
    pid, fd = pty.fork()
    if pid == 0:
        os.closerange(3, 1 << 10)
        os.chdir(REPO)
        os.execvp(str(words[0]), [*map(str, words)])
    screen = Screen(pid, fd)
    try:
        yield screen
    finally:
        screen.close()


SHELL = ("env", "PS1=shell> ", "bash", "--norc", "--noediting", "-i")


def restore_words(checkpoint: Path) -> list[str]:
    return [sys.executable, "-m", "cli", "restore", str(checkpoint), "--tty"]


def test_a_shell_goes_on_in_the_terminal_of_the_caller(tmp_path: Path) -> None:
    """With a job in the foreground."""
    checkpoint = tmp_path / "checkpoint"
    with in_terminal(*SHELL) as screen:
        screen.wait_for(b"shell> ")
        screen.type(b"value=41; cat\nfirst\n")
        screen.wait_for(b"first\r\nfirst\r\n")
        predump("dump", "-t", screen.pid, "-D", checkpoint, "--kill", "--no-pre-dump")
        screen.end()
    assert "--tty" in predump("restore", checkpoint, "--detach", expect=1).stderr
    with in_terminal(*restore_words(checkpoint)) as screen:
        screen.wait_for(b"2 processes of round 1 back")
        screen.type(b"word\n")
        screen.wait_for(b"word\r\nword\r\n")
        screen.type(b"\x1a")
        screen.wait_for(b"Stopped")
        screen.wait_for(b"shell> ")
        screen.type(b"echo $((value + 1))\n")
        screen.wait_for(b"\n42\r\nshell> ")
        screen.type(b"fg\n")
        screen.wait_for(b"cat\r\n")
        screen.type(b"\x04")
        screen.wait_for(b"shell> ")
        screen.type(b"exit 7\n")
        screen.wait_for(b"ended with 7")
        assert os.waitstatus_to_exitcode(screen.end()) == 7


def test_a_job_goes_on_as_a_job_of_the_caller_s_shell(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with in_terminal(*SHELL) as screen:
        screen.wait_for(b"shell> ")
        screen.type(b"cat\nfirst\n")
        screen.wait_for(b"first\r\nfirst\r\n")
        (job,) = children(screen.pid)
        predump("dump", "-p", job, "-D", checkpoint, "--kill", "--no-pre-dump")
        screen.wait_for(b"shell> ")
    with in_terminal(*SHELL) as screen:
        screen.wait_for(b"shell> ")
        screen.type(" ".join(restore_words(checkpoint)).encode() + b"\n")
        screen.wait_for(b"1 process of round 1 back")
        for _ in range(2):
            screen.type(b"word\n")
            screen.wait_for(b"word\r\nword\r\n")
            screen.type(b"\x1a")
            screen.wait_for(b"Stopped")
            screen.wait_for(b"shell> ")
            screen.type(b"fg\n")
            screen.wait_for(b"--tty\r\n")
        screen.type(b"word\n")
        screen.wait_for(b"word\r\nword\r\n")  # it has the terminal again
        screen.type(b"\x03")
        screen.wait_for(b"ended with 130")
        screen.wait_for(b"shell> ")
