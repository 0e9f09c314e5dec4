"""Descriptors into a process that is being made: at their numbers, each open file once for all that share it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from dumper.kernel.remote import Call, Sys
from formats.processstate import Descriptor
from restorer.caller import Caller


class Receiver(Caller, Protocol):
    """A process that can be given descriptors; its own are above all that it is to have."""

    @property
    def own_pid(self) -> int:
        """Its pid in its own pid namespace."""

    def receive(self, fds: Sequence[int]) -> list[int]:
        """Copies of ours, close-on-exec; the numbers that they have there. Raises OSError."""


def hand_over(receiver: Receiver, descriptors: Sequence[Descriptor], ours: Mapping[int, int]) -> None:
    """`ours`: our descriptors by open file. Raises CallFailed, OSError.

    They come at the lowest numbers that are free, in order of the wanted ones, so that none comes at a higher number
    than it is to have: put in place from the last one on, none is replaced that is still needed.
    """
    firsts: dict[int, Descriptor] = {}
    for descriptor in sorted(descriptors, key=lambda one: one.fd):
        firsts.setdefault(descriptor.open_file, descriptor)
    received = receiver.receive([ours[number] for number in firsts])
    calls = []
    for fd, wanted in reversed(list(zip(received, firsts.values(), strict=True))):
        if fd > wanted.fd:
            raise ValueError(f"descriptor {fd} is in the way of {wanted.fd}")
        if fd != wanted.fd:
            calls += [_duplicate(fd, wanted), Call(Sys.CLOSE, (fd,))]
        elif not wanted.close_on_exec:
            calls.append(Call(Sys.FCNTL, (fd, fcntl.F_SETFD, 0)))
    calls += [_duplicate(firsts[one.open_file].fd, one) for one in descriptors if one is not firsts[one.open_file]]
    receiver.calls(calls)


def _duplicate(fd: int, wanted: Descriptor) -> Call:
    return Call(Sys.DUP3, (fd, wanted.fd, os.O_CLOEXEC if wanted.close_on_exec else 0))
