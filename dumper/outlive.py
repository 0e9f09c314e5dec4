"""Work in a process of its own, which a signal to predump does not reach, or in an OS thread of its own.

With its tracer ends the suspension of a target's seccomp filters (PTRACE_O_SUSPEND_SECCOMP). Should the tracer be
killed just when a thread makes an injected call, the filter sees the call, and may kill the target. So for targets with
a filter the tracer is a child in a session of its own. If predump ends, the child gives up in an orderly way.

A thread of the target that comes to its stop when nobody waits for it any more would stay there as long as its tracer
lives. The kernel lets go of it when the OS thread ends that traces it: exit_ptrace in kernel/ptrace.c.
"""

import errno
import os
import pickle
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TypeVar

from dumper.events import Emit, Event
from dumper.kernel.probes import signal_on_parent_death

ANSWER_MAX_BYTES = 192 << 10
MAX_FDS = 8

T = TypeVar("T")


class _AbortedError(BaseException):
    """Predump ended, or was told to."""


def _abort(_number: int, _frame: FrameType | None) -> None:
    raise _AbortedError


def in_child(work: Callable[[Emit], tuple[T, list[int]]], emit: Emit) -> tuple[T, list[int]]:
    """What `work` returns there: a value that can be pickled, and descriptors. Its events are emitted here.

    Raises what `work` raises, and ConnectionResetError if the child was killed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent_pid = os.getpid()
    child_pid = os.fork()
    if child_pid == 0:
        ours.close()
        _be_the_child(work, theirs, parent_pid)
    theirs.close()
    try:
        with ours:
            return _follow(ours, emit)
    except BaseException:
        os.kill(child_pid, signal.SIGTERM)
        raise
    finally:
        os.waitpid(child_pid, 0)


def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns there, or raises; whatever interrupts us, it comes to its end first."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()


def _be_the_child(work: Callable[[Emit], tuple[T, list[int]]], parent: socket.socket, parent_pid: int) -> None:
    def send(kind: str, value: object, fds: list[int]) -> None:
        socket.send_fds(parent, [pickle.dumps((kind, value))], fds)

    def emit(event: Event) -> None:
        send("event", event, [])

    try:
        os.setsid()  # no signal meant for our process group reaches it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _abort)
        signal_on_parent_death(signal.SIGTERM)
        if os.getppid() == parent_pid:
            value, fds = work(emit)
            send("result", value, fds)
    except _AbortedError:
        pass
    except Exception as error:  # whatever it is, it is the parent that reports it
        send("error", error, [])
    finally:
        os._exit(0)


def _follow(child: socket.socket, emit: Emit) -> tuple[T, list[int]]:
    while True:
        message, fds, _, _ = socket.recv_fds(child, ANSWER_MAX_BYTES, MAX_FDS)
        if not message:
            raise ConnectionResetError(errno.ECONNRESET, "the tracer was killed")
        kind, value = pickle.loads(message)
        if kind == "result":
            return value, fds
        if kind == "error":
            raise value
        emit(value)
