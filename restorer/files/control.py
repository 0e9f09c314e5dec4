"""Controlling terminals: a session has one, and of it a process group that is in the foreground: tty_ioctl(4)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from dumper.kernel.remote import Sys
from dumper.state.terminals import PTY_SLAVE_MAJOR
from restorer.files.handing import Receiver
from restorer.files.terminals import Terminals
from restorer.files.workshop import Workshop

TIOCSCTTY, TIOCSPGRP = 0x540E, 0x5410


def take_terminals(shop: Workshop, terminals: Terminals, receivers: Mapping[int, Receiver]) -> None:
    """Leaders of sessions take the pseudoterminals that were made for them. Raises CallFailed, OSError."""
    for pid, receiver in receivers.items():
        lineage = shop.records.states[pid].lineage
        if lineage.session != pid or not lineage.terminal:
            continue
        index = os.minor(lineage.terminal) if os.major(lineage.terminal) == PTY_SLAVE_MAJOR else -1
        slave = terminals.slave(index)
        now = shop.pids[pid]
        if slave is None or os.getsid(now) != now:
            shop.tell(f"process {pid} has no controlling terminal")
            continue
        (fd,) = receiver.receive([slave])
        receiver.call(Sys.IOCTL, fd, TIOCSCTTY, 0)
        leader = receivers.get(_foreground_group(shop, index))
        if leader is not None:
            receiver.call(Sys.IOCTL, fd, TIOCSPGRP, receiver.put(struct.pack("i", leader.own_pid)))
        receiver.call(Sys.CLOSE, fd)


def _foreground_group(shop: Workshop, index: int) -> int:
    """As the image has it; 0 if it does not say."""
    ends = shop.records.terminals(index, master=False) + shop.records.terminals(index, master=True)
    return next((terminal.foreground_group for _, terminal in ends if terminal.foreground_group), 0)
