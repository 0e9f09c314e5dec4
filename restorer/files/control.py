"""Controlling terminals: a session has one, and of it a process group that is in the foreground: tty_ioctl(4)."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from dumper.kernel.remote import Sys
from dumper.state.terminals import PTY_SLAVE_MAJOR
from formats.manifest import Manifest
from formats.processstate import Lineage
from restorer.files.handing import Receiver
from restorer.files.terminals import Terminals
from restorer.files.workshop import Workshop

TIOCSCTTY, TIOCSPGRP = 0x540E, 0x5410


def has_lost_terminal(manifest: Manifest) -> bool:
    """Whether the root leads a session whose terminal is a pseudoterminal that others drove."""
    lineage = _root_lineage(manifest)
    index = _pty(lineage)
    masters = {one.terminal.index for one in manifest.open_files if one.terminal and one.terminal.is_master}
    return lineage.session == manifest.root_pid and index >= 0 and index not in masters


def foreground_pid(manifest: Manifest) -> int:
    """Who leads the group that the terminal of the root's session belonged to, if it is in the image; else the root."""
    pids = {one.pid for one in manifest.processes if one.state}
    index = _pty(_root_lineage(manifest))
    ends = (one.terminal for one in manifest.open_files if one.terminal and one.terminal.index == index)
    return next((end.foreground_group for end in ends if end.foreground_group in pids), manifest.root_pid)


def take_terminals(shop: Workshop, terminals: Terminals, receivers: Mapping[int, Receiver]) -> None:
    """Leaders of sessions take the pseudoterminals that were made for them. Raises CallFailed, OSError."""
    for pid, receiver in receivers.items():
        lineage = shop.records.states[pid].lineage
        if lineage.session != pid or not lineage.terminal:
            continue
        index = _pty(lineage)
        slave = terminals.slave(index)
        now = shop.pids[pid]
        if os.getsid(now) != now:
            shop.tell(f"session of process {pid}, which is the caller's, as is its terminal")
            continue
        if slave is None:
            shop.tell(f"process {pid} has no controlling terminal")
            continue
        (fd,) = receiver.receive([slave])
        receiver.call(Sys.IOCTL, fd, TIOCSCTTY, 0)
        leader = receivers.get(_foreground_group(shop, index))
        if leader is not None:
            receiver.call(Sys.IOCTL, fd, TIOCSPGRP, receiver.put(struct.pack("i", leader.own_pid)))
        receiver.call(Sys.CLOSE, fd)


def _root_lineage(manifest: Manifest) -> Lineage:
    return next(one.state.lineage for one in manifest.processes if one.state and one.pid == manifest.root_pid)


def _pty(lineage: Lineage) -> int:
    """The number of the pseudoterminal that controls it; -1 if none does."""
    return os.minor(lineage.terminal) if os.major(lineage.terminal) == PTY_SLAVE_MAJOR else -1


def _foreground_group(shop: Workshop, index: int) -> int:
    """As the image has it; 0 if it does not say."""
    ends = shop.records.terminals(index, master=False) + shop.records.terminals(index, master=True)
    return next((terminal.foreground_group for _, terminal in ends if terminal.foreground_group), 0)
