"""What signals do to a process that is being made, and those that wait for it."""

from __future__ import annotations

import signal
import struct
from collections.abc import Sequence

from dumper.kernel.remote import Call, RemoteThread, Sys
from formats.processstate import Disposition
from formats.threadstate import PendingSignal
from restorer.caller import Caller
from restorer.shell import SCRATCH_BYTES

_ACTION = struct.Struct("4Q")  # struct sigaction of the kernel: handler, flags, restorer, mask
_SIGSET_BYTES = 8


def set_dispositions(caller: Caller, dispositions: Sequence[Disposition]) -> None:
    """rt_sigaction(2); signals that are not named are at their default. Raises CallFailed."""
    actions = b"".join(
        _ACTION.pack(item.handler_addr, item.flags, item.restorer_addr, item.mask) for item in dispositions
    )
    addr = caller.put(actions)
    caller.calls(
        [
            Call(Sys.RT_SIGACTION, (item.number, addr + index * _ACTION.size, 0, _SIGSET_BYTES))
            for index, item in enumerate(dispositions)
        ]
    )


def queue_for_process(caller: Caller, own_pid: int, pending: Sequence[PendingSignal]) -> None:
    """Signals that any thread may take, in their order; all are blocked. Raises CallFailed."""
    for start in range(0, len(pending), _AT_ONCE):
        batch = pending[start : start + _AT_ONCE]
        caller.calls([Call(Sys.RT_SIGQUEUEINFO, (own_pid, *rest)) for rest in _infos(caller, batch)])


def queue_for_thread(
    caller: Caller, thread: RemoteThread, own_pid: int, own_tid: int, pending: Sequence[PendingSignal]
) -> None:
    """Signals that this thread is to take, in their order. Raises CallFailed."""
    for start in range(0, len(pending), _AT_ONCE):
        batch = pending[start : start + _AT_ONCE]
        thread.calls([Call(Sys.RT_TGSIGQUEUEINFO, (own_pid, own_tid, *rest)) for rest in _infos(caller, batch)])


_SIGINFO_BYTES = 128
_AT_ONCE = SCRATCH_BYTES // _SIGINFO_BYTES


def _infos(caller: Caller, pending: Sequence[PendingSignal]) -> list[tuple[int, int]]:
    """Number and address of each, its siginfo_t being in the scratch."""
    addr = caller.put(b"".join(item.siginfo.ljust(_SIGINFO_BYTES, b"\0") for item in pending))
    return [
        (item.number, addr + index * _SIGINFO_BYTES)
        for index, item in enumerate(pending)
        if item.number not in (signal.SIGKILL, signal.SIGSTOP)
    ]
