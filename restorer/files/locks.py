"""Locks and leases, taken again by the processes themselves: flock(2), fcntl_locking(2), F_SETLEASE."""

from __future__ import annotations

import fcntl
import os
import struct

from dumper.kernel.remote import CallFailed, Sys
from formats.openfiles import OpenFile
from formats.processstate import FileLock
from restorer.caller import Caller
from restorer.files.records import is_path_only
from restorer.files.workshop import Workshop

READ, WRITE = "read", "write"
F_SETSIG, F_OFD_SETLK, F_SETLEASE = 10, 37, 1024
_FLOCK = struct.Struct("hhxxxxqqixxxx")  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_TYPES = {READ: fcntl.F_RDLCK, WRITE: fcntl.F_WRLCK}


def take_locks(shop: Workshop, caller: Caller, pid: int) -> None:
    """All of process `pid` of the image. Raises RestoreFailed if somebody else has one, CallFailed."""
    for lock in shop.records.states[pid].locks:
        one = shop.records.at(pid, lock.fd)
        if one is None:
            continue  # it is of a file that is not open there
        try:
            _take(shop, caller, pid, lock, one)
        except CallFailed as error:
            shop.refuse(
                one,
                f"its lock ({lock.kind}, {lock.mode}) could not be taken: {os.strerror(error.errno or 0)}",
                "End the process that has the lock, and try again.",
            )


def _take(shop: Workshop, caller: Caller, pid: int, lock: FileLock, one: OpenFile) -> None:
    if lock.mode not in _TYPES:
        shop.refuse(one, f"a lock of mode {lock.mode} cannot be taken")
    kind = _TYPES[lock.mode]
    match lock.kind:
        case "flock":
            how = fcntl.LOCK_SH if lock.mode == READ else fcntl.LOCK_EX
            caller.call(Sys.FLOCK, lock.fd, how | fcntl.LOCK_NB)
        case "lease":
            caller.call(Sys.FCNTL, lock.fd, F_SETLEASE, kind)
            if one.owner_signal:
                caller.call(Sys.FCNTL, lock.fd, F_SETSIG, one.owner_signal)
        case "posix" | "ofd":
            n_bytes = 0 if lock.end < 0 else lock.end - lock.start + 1
            addr = caller.put(_FLOCK.pack(kind, os.SEEK_SET, lock.start, n_bytes, 0))
            command = F_OFD_SETLK if lock.kind == "ofd" else fcntl.F_SETLK
            caller.call(Sys.FCNTL, _able(shop, pid, lock, one), command, addr)
        case _:
            shop.refuse(one, f"locks of kind {lock.kind} cannot be taken")


def _able(shop: Workshop, pid: int, lock: FileLock, one: OpenFile) -> int:
    """A descriptor by which it may be taken: a lock of the process is told of each one of the file."""
    if lock.kind == "ofd":
        return lock.fd
    refused = os.O_RDONLY if lock.mode == WRITE else os.O_WRONLY
    for item in shop.records.same_file(one):
        for holder in shop.records.holders[item.id]:
            if holder.pid == pid and not is_path_only(item) and item.flags & os.O_ACCMODE != refused:
                return holder.fd
    return lock.fd
