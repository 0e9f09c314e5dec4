"""Who gets signals of an open file, and which: F_SETOWN(2const), F_SETSIG(2const), O_ASYNC."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping

from dumper.kernel.remote import Sys
from restorer.caller import Caller
from restorer.files.locks import F_SETSIG
from restorer.files.workshop import STATUS_FLAGS, Workshop, name_of


def set_owners(shop: Workshop, callers: Mapping[int, Caller]) -> None:
    """Of all open files. O_ASYNC is set by the process: the number of its descriptor comes with the signal.

    Raises OSError.
    """
    for one in shop.records.open_files:
        fd = shop.made[one.id]
        if one.owner:
            now = shop.pids.get(abs(one.owner))
            if now is None:
                shop.tell(f"the owner of {name_of(one)}, {one.owner}, who is not in the image, gets no signals of it")
            else:
                fcntl.fcntl(fd, fcntl.F_SETOWN, now if one.owner > 0 else -now)
        if one.owner_signal:
            fcntl.fcntl(fd, F_SETSIG, one.owner_signal)
        if one.flags & os.O_ASYNC:
            holder = shop.records.holders[one.id][0]
            flags = one.flags & (STATUS_FLAGS | os.O_ASYNC)
            callers[holder.pid].call(Sys.FCNTL, holder.fd, fcntl.F_SETFL, flags)
